"""`routebatch api`, the HTTP server, and `routebatch migrate`, which brings the database's schema up to date."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option
from cli.stack_access import database_options, find_database

if TYPE_CHECKING:
    from routing_service.service import Service
    from routing_service.settings import Settings

STOP_SECONDS = 10  # what a request in progress gets when the server is told to stop
KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection: one that is closed as a call begins fails it
SECRETS = re.compile(r"\brb-[\w-]{16,}|(?<=://)[^\s/@]+@")


@click.command()
@click.option("--host", help="Default: ROUTEBATCH_API_HOST, api_host of the configuration, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: ROUTEBATCH_API_PORT, api_port, else 8080.")
def api(host: str | None, port: int | None) -> None:
    """Run the HTTP API until SIGTERM or Ctrl-C."""
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


@click.command()
@json_option
@database_options
def migrate(as_json: bool, state_dir: Path | None) -> None:
    """Migrate the database's schema to this version. Safe to run at any time, from several hosts at once."""

    from cli.output import print_json
    from migrations.runner import revisions, upgrade

    url = find_database(state_dir)
    before, _ = revisions(url)
    upgrade(url)
    after, _ = revisions(url)
    if as_json:
        print_json({"revision": after, "before": before, "changed": before != after})
    else:
        click.echo(f"schema at revision {after}" + (" already" if before == after else f" (was: {before or 'none'})"))


def _service(settings: Settings) -> Service:
    """ConfigurationError where a model has no price: that is said before the server starts."""
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
