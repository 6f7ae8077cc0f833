"""The app: routes, errors and middleware put together over the services that the caller made."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from routing_service.api import batches, feedback, files, replies, system
from routing_service.api.context import Services
from routing_service.api.wire import Wire
from routing_service.db import Database
from routing_service.events import Publisher
from routing_service.money.pricing import PriceBook
from routing_service.settings import Settings


def create_app(settings: Settings, database: Database, publisher: Publisher, prices: PriceBook) -> FastAPI:
    """The HTTP API. It owns nothing: the caller disposes of the database when the server has stopped."""
    app = FastAPI(
        title="routebatch",
        openapi_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Wire, drain_bytes=2 * settings.limits.max_file_bytes)],
    )
    app.state.services = Services(settings, database, publisher, prices)
    replies.install(app)
    for router in (files.router, batches.router, feedback.router, system.router):
        app.include_router(router)
    return app
