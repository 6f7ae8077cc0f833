"""The workers' part without a broker: what was announced is done in turn, until nothing is left to do."""

from __future__ import annotations

import asyncio
from typing import Any

from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.dispatch.pump import Pump
from routing_service.exploration.explore import explore
from routing_service.ingest.ingest import ingest
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from routing_service.plans.replan import replan
from routing_service.routers.registry import Routers
from routing_service.scoring.score import announce_ranges, score
from routing_service.settings import Settings
from routing_service.upstream.client import Upstreams
from tests.support.fakes import FakePublisher


def work(database: Database, settings: Settings, publisher: FakePublisher) -> None:
    """Do what was announced, and what follows from it, as the tasks would. A doorbell is answered by one pump."""
    routers, prices = Routers(settings, database), price_book(settings)
    while publisher.events:
        name, *ids = publisher.events.pop(0)
        found: list[Any] = list(ids)
        if name == "ingest":
            ingest(database, settings, prices, *found)
            announce_ranges(database, settings, publisher, *found)
        elif name == "score":
            if score(database, settings, routers, *found):
                publisher.plan(found[0])
            announce_ranges(database, settings, publisher, found[0])
        elif name == "plan":
            if plan(database, settings, *found):
                publisher.dispatch()
            else:
                replan(database, settings, *found)
        elif name == "dispatch" and ("dispatch",) not in publisher.events:
            asyncio.run(_pump(database, settings, publisher))
        elif name == "finish":
            finish(database, *found)
            if explore(database, settings, prices, *found):
                publisher.dispatch()


async def _pump(database: Database, settings: Settings, publisher: FakePublisher) -> None:
    upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
    try:
        await Pump(database, settings, price_book(settings), upstreams, publisher).run()
    finally:
        await upstreams.close()
