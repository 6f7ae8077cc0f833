"""The Publisher of production: Celery messages with ids in them, sent after the commit they announce."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


class CeleryPublisher:
    """Announces by task name. A broker that is away is logged and left to the sweep."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ingest(self, batch_id: str) -> None:
        self._send("routebatch.ingest", batch_id)

    def score(self, batch_id: str, first_line: int) -> None:
        self._send("routebatch.score", batch_id, first_line)

    def plan(self, batch_id: str) -> None:
        self._send("routebatch.plan", batch_id)

    def dispatch(self) -> None:
        # A doorbell that nobody heard for a minute is stale: pumps were busy, and the sweep rings again where need be.
        self._send("routebatch.dispatch", expires=60)

    def finish(self, batch_id: str) -> None:
        self._send("routebatch.finish", batch_id)

    def _send(self, task: str, *args: Any, expires: float | None = None) -> None:
        try:
            self._app.send_task(task, args=args, expires=expires)
        except (OperationalError, OSError) as error:
            log.warning("%s%s was not announced (%s); the sweep will", task, args, type(error).__name__)
