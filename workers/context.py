"""What a worker child keeps for its whole life: settings, database, prices, publisher, routers, the event loop.

Everything is made on first use, hence after the fork; one composition root for all tasks.
"""

from __future__ import annotations

import asyncio
import sys
from functools import cache, cached_property

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.events import Publisher
from routing_service.money.pricing import PriceBook, price_book
from routing_service.routers.registry import Routers
from routing_service.scoring.lengths import LengthModels
from routing_service.settings import Settings, get_settings
from routing_service.upstream.client import Upstreams
from routing_service.upstream.limiter import Limiter, SharedLimits
from workers.publisher import CeleryPublisher
from workers.shutdown import stopping

SWITCH_S = 0.0005


class Context:
    @cached_property
    def settings(self) -> Settings:
        return get_settings()

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.database_url.get_secret_value())

    @cached_property
    def prices(self) -> PriceBook:
        return price_book(self.settings)

    @cached_property
    def publisher(self) -> Publisher:
        from workers.app import app

        return CeleryPublisher(app)

    @cached_property
    def routers(self) -> Routers:
        return Routers(self.settings, self.database)

    @cached_property
    def lengths(self) -> LengthModels:
        return LengthModels()

    def pump(self) -> None:
        """One stretch of dispatching, on the process's own event loop and HTTP client."""
        self._loop.run(self._pump())

    @cached_property
    def _loop(self) -> asyncio.Runner:
        # A thread that comes back from the database waits so long for a busy event loop, and a claim comes back a dozen
        # times: with Python's 5 ms bites came too late to keep the upstreams busy.
        sys.setswitchinterval(SWITCH_S)
        return asyncio.Runner()

    async def _pump(self) -> None:
        upstreams, limiter = self._upstreams, self._limiter
        await Pump(self.database, self.settings, self.prices, upstreams, self.publisher, stopping.is_set, limiter).run()

    @cached_property
    def _upstreams(self) -> Upstreams:
        """Made by the first pump, inside the loop that all pumps of this process run in."""
        return Upstreams(self.settings.models, self.settings.dispatch.max_response_bytes)

    @cached_property
    def _limiter(self) -> Limiter:
        """What it knows of the upstreams outlives a stretch of dispatching."""
        return Limiter(self.settings.models, SharedLimits.of(self.settings.broker_url.get_secret_value()))


@cache
def context() -> Context:
    return Context()
