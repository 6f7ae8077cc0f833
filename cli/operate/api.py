"""`routebatch api`: run the HTTP API."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import click

from cli.options import PORT

if TYPE_CHECKING:
    from routing_service.service import Service
    from routing_service.settings import Settings

STOP_SECONDS = 10  # what a request in progress gets when the server is told to stop
KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection: one that is closed as a call begins fails it
SECRETS = re.compile(r"\brb-[\w-]{16,}|(?<=://)[^\s/@]+@")


@click.command()
@click.option(
    "--host",
    help="Listen on this address. Default: ROUTEBATCH_API_HOST, else api_host of the configuration, else 127.0.0.1.",
)
@click.option(
    "--port",
    type=PORT,
    help="Listen on this port. Default: ROUTEBATCH_API_PORT, else api_port of the configuration, else 8080.",
)
def api(host: str | None, port: int | None) -> None:
    """Run the HTTP API, until SIGTERM or Ctrl-C."""
    import uvicorn

    from routing_service.api.app import create_app
    from routing_service.settings import get_settings

    _log()
    settings = get_settings()
    service = _service(settings)
    try:
        uvicorn.run(
            create_app(service),
            host=host or settings.api_host,
            port=settings.api_port if port is None else port,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    finally:
        service.close()


def _service(settings: Settings) -> Service:
    """ConfigurationError where a model has no price: before the server starts, not with the first batch."""
    from routing_service.service import Service
    from workers.app import app as celery
    from workers.publisher import CeleryPublisher

    service = Service.of(settings, CeleryPublisher(celery))
    assert service.prices
    return service


class MaskingFormatter(logging.Formatter):
    """Takes keys and the credentials of URLs out of whatever is logged, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return SECRETS.sub("***", super().format(record))


def _log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
