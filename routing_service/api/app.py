"""The app: routes, errors and middleware put together over the service that the caller made."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from routing_service.api import batches, feedback, files, replies, system
from routing_service.api.wire import Wire
from routing_service.service import Service


def create_app(service: Service) -> FastAPI:
    """The HTTP API. It owns nothing: the caller closes the service when the server has stopped."""
    app = FastAPI(
        title="routebatch",
        openapi_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Wire, drain_bytes=2 * service.settings.limits.max_file_bytes)],
    )
    app.state.service = service
    replies.install(app)
    for router in (files.router, batches.router, feedback.router, system.router):
        app.include_router(router)
    return app
