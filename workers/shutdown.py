"""A worker that fails must end, so that whoever supervises it starts another.

Celery stops after an error that it cannot recover from, and waits for its pool; where the error was one of the broker's
connection, that wait may never end (kombu 5.7 fails so where the broker goes while messages are unacknowledged). Such a
worker would stand there, alive and deaf.

A flag that a worker's parent process sets and its pool's children see: the worker is shutting down.

It is made before the pool forks, so that parent and children share it. It is a byte of shared memory and no Event: that
has a lock, and a child killed while it looks would keep it for ever, from its parent and from whoever replaces it.
"""

from __future__ import annotations

import os
import threading
from mmap import mmap
from typing import Any

from celery import bootsteps

from routing_service.settings import get_settings


class SharedFlag:
    """Set once, seen by every process forked after it was made."""

    def __init__(self) -> None:
        self._byte = mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1


stopping = SharedFlag()


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
