"""How a worker stops: its pool is told to finish, and a worker that failed ends even where its pool never does.

`stopping` is set when the worker shuts down, in the parent process; pumps in the pool's children look at it.

`EndAfterFailure` is for errors that Celery cannot recover from: it stops then and waits for its pool, and where the
error was one of the broker's connection that wait may never end (kombu 5.7, when the broker goes while messages are
unacknowledged). The worker would be alive and deaf; it is ended instead, and whoever supervises it starts another.
"""

from __future__ import annotations

import os
import threading
from mmap import mmap
from typing import Any

from celery import bootsteps

from routing_service.settings import get_settings

SPARE_S = 5.0  # beyond the grace period of the calls in flight


class SharedFlag:
    """Set once, seen by every process that was forked after it was made.

    A byte of shared memory and not an Event: that has a lock, and a child killed while it looks would keep the lock for
    ever, from its parent and from whoever replaces it.
    """

    def __init__(self) -> None:
        self._byte = mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1


stopping = SharedFlag()  # made before the pool forks, so that parent and children share it


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
