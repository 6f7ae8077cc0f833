"""Dispatch processes for a stress: each runs pumps until SIGTERM, and any of them may be killed and replaced."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any

from routing_service.db import Database
from routing_service.events import DispatchDue, Event, FinishDue, PlanDue
from routing_service.service import Service, handle
from routing_service.settings import Settings
from tests.support.factories import NO_BROKER, make_settings
from tests.support.fakes import FakePublisher

LOOK_S = 0.2


class AtOnce(FakePublisher):
    """Handles at once, in the process that announces it, what a worker would do for a message."""

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__()
        self.service = Service(database, settings, self)

    def publish(self, event: Event) -> None:
        if isinstance(event, PlanDue | FinishDue):
            handle(self.service, event)


class Dispatchers:
    """The dispatch processes. Only these are ever killed."""

    def __init__(self, url: str, sections: dict[str, Any]) -> None:
        self._arguments = (url, sections)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", __name__])
        self.processes: list[ForkServerProcess] = []

    def add(self) -> None:
        process = self._context.Process(target=_dispatch, args=self._arguments, daemon=True)
        process.start()
        self.processes.append(process)

    def kill(self, victim: ForkServerProcess) -> int:
        """SIGKILL, and another takes its place. Returns the dead one's id."""
        self.processes.remove(victim)
        victim.kill()
        victim.join()
        self.add()
        assert victim.pid
        return victim.pid

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(30)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def dispatchers(url: str, sections: dict[str, Any], count: int) -> Iterator[Dispatchers]:
    """So many processes. SIGTERM at the end, then SIGKILL."""
    running = Dispatchers(url, sections)
    try:
        for _ in range(count):
            running.add()
        yield running
        running.stop()
    finally:
        running.end()


def _dispatch(url: str, sections: dict[str, Any]) -> None:
    """A dispatch process: one pump after the other until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    service = AtOnce(Database(url), make_settings(broker_url=NO_BROKER, **sections)).service
    service.stopping = stopping.is_set
    while not stopping.is_set():
        handle(service, DispatchDue())
        stopping.wait(LOOK_S)
    service.close()
