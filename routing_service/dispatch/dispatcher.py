"""What the pumps of one process share: an event loop, an HTTP client and a limiter outlive a stretch of dispatching."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.events import Publisher
from routing_service.money.pricing import PriceBook
from routing_service.settings import Settings
from routing_service.upstream.client import Upstreams
from routing_service.upstream.limiter import Limiter, SharedLimits

# A thread that comes back from the database waits so long for a busy event loop, and a claim comes back a dozen times:
# with Python's 5 ms claims came too late to keep the upstreams busy.
SWITCH_S = 0.0005


class Dispatcher:
    """Runs pumps, one after the other. Close it in the end."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        prices: PriceBook,
        publisher: Publisher,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database, self._settings, self._prices = database, settings, prices
        self._publisher, self._stopping = publisher, stopping
        self._loop = asyncio.Runner()

    def run(self) -> None:
        """One stretch of dispatching, to its end."""
        with _quick_switches():
            self._loop.run(self._pump())

    def close(self) -> None:
        self._loop.run(self._close())
        self._loop.close()

    async def _pump(self) -> None:
        await Pump(
            self._database,
            self._settings,
            self._prices,
            self._upstreams,
            self._publisher,
            self._stopping,
            self._limiter,
        ).run()

    @cached_property
    def _upstreams(self) -> Upstreams:
        """Made by the first pump, inside the loop that all of them run in."""
        return Upstreams(self._settings.models, self._settings.dispatch.max_response_bytes)

    @cached_property
    def _shared(self) -> SharedLimits | None:
        return SharedLimits.of(self._settings.broker_url.get_secret_value())

    @cached_property
    def _limiter(self) -> Limiter:
        return Limiter(self._settings.models, self._shared)

    async def _close(self) -> None:
        await self._upstreams.close()
        if self._shared is not None:
            await self._shared.close()


@contextmanager
def _quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
