"""A worker that fails must end, so that whoever supervises it starts another.

Celery stops after an error that it cannot recover from, and waits for its pool; where the error was one of the broker's
connection, that wait may never end (kombu 5.7 fails so where the broker goes while messages are unacknowledged). Such a
worker would stand there, alive and deaf.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from celery import bootsteps

from routing_service.settings import get_settings
from workers.stopping import stopping

SPARE_S = 5.0


class EndAfterFailure(bootsteps.StartStopStep):
    """Ends the process when it failed and has not stopped by itself, its calls in flight given their grace period."""

    requires = ("celery.worker.components:Pool",)

    def close(self, parent: Any) -> None:
        """Called first of all when the worker stops, whatever the reason."""
        if parent.exitcode:
            stopping.set()  # pumps claim nothing more and settle
            end_within(get_settings().dispatch.grace_s + SPARE_S, parent.exitcode)


def end_within(seconds: float, code: int) -> None:
    """Exit with that code after so many seconds, unless the process has ended by then."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()
