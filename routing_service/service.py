"""The composition root: what a process of the service is made of, and what it does when an event comes.

`handle(service, event)` runs the use case that the event asks for, then publishes what follows. Celery tasks, the HTTP
API, benchmarks and tests all drive it. Every event may come twice, late or never; use cases leave alone what is done.

Nothing below takes a `Service`: use cases take the database, the settings, the prices, and whatever else they need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

from routing_service.batches.view import TotalsCache
from routing_service.db import Database
from routing_service.dispatch.dispatcher import Dispatcher
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.events import (
    DispatchDue,
    Event,
    FinishDue,
    FitLengthsDue,
    IngestDue,
    PlanDue,
    Publisher,
    ScoreDue,
    SweepDue,
)
from routing_service.exploration.explore import explore
from routing_service.ingest.ingest import ingest
from routing_service.money.pricing import PriceBook, price_book
from routing_service.plans.plan import plan
from routing_service.plans.replan import replan
from routing_service.routers.registry import Routers
from routing_service.scoring.lengths import LengthModels, fit_lengths
from routing_service.scoring.score import announce_ranges, score
from routing_service.settings import Settings


@dataclass
class Service:
    """One a process. Members that are costly are made when they are first used and kept from then on."""

    database: Database
    settings: Settings
    publisher: Publisher
    stopping: Callable[[], bool] = lambda: False  # true once the process is to stop: pumps claim nothing more
    totals: TotalsCache = field(default_factory=TotalsCache)  # what the API shows of batches that have ended

    @classmethod
    def of(cls, settings: Settings, publisher: Publisher, stopping: Callable[[], bool] = lambda: False) -> Service:
        """With the database of the settings. Make it after a fork."""
        return cls(Database(settings.database_url.get_secret_value()), settings, publisher, stopping)

    @cached_property
    def prices(self) -> PriceBook:
        """ConfigurationError names the key of a model that has none."""
        return price_book(self.settings)

    @cached_property
    def routers(self) -> Routers:
        return Routers(self.settings, self.database)

    @cached_property
    def lengths(self) -> LengthModels:
        return LengthModels()

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.database, self.settings, self.prices, self.publisher, self.stopping)

    def close(self) -> None:
        """Close what was opened: connections to upstreams, to the broker and to the database."""
        if "dispatcher" in vars(self):
            self.dispatcher.close()
        self.database.dispose()


def handle(service: Service, event: Event) -> None:
    """Do what is due, then publish what follows from it."""
    match event:
        case IngestDue(batch_id):
            _ingest(service, batch_id)
        case ScoreDue(batch_id, first_line):
            _score(service, batch_id, first_line)
        case PlanDue(batch_id):
            _plan(service, batch_id)
        case DispatchDue():
            service.dispatcher.run()
        case FinishDue(batch_id):
            _finish(service, batch_id)
        case SweepDue():
            sweep(service.database, service.settings, service.publisher)
        case FitLengthsDue():
            fit_lengths(service.database, service.settings)
        case _:
            assert_never(event)


def _ingest(service: Service, batch_id: str) -> None:
    """Read and validate the batch's file, then announce what may be scored of it."""
    if ingest(service.database, service.settings, service.prices, batch_id) is None:
        service.publisher.publish(FinishDue(batch_id))  # cancelled meanwhile, perhaps
    announce_ranges(service.database, service.settings, service.publisher, batch_id)


def _score(service: Service, batch_id: str, first_line: int) -> None:
    """Score one range of lines and announce the next; the last one announces the plan."""
    if score(
        service.database,
        service.settings,
        service.prices,
        service.routers,
        batch_id,
        first_line,
        service.lengths,
    ):
        service.publisher.publish(PlanDue(batch_id))
    announce_ranges(service.database, service.settings, service.publisher, batch_id)


def _plan(service: Service, batch_id: str) -> None:
    """Allocate the batch under its budget and ring the pump. A plan that stands is cut anew by what answers cost."""
    if plan(service.database, service.settings, service.prices, batch_id):
        service.publisher.publish(DispatchDue())
    else:
        replan(service.database, service.settings, service.prices, batch_id)


def _finish(service: Service, batch_id: str) -> None:
    """Give the batch its files and its last state, if it has nothing left to do; have it explored if it is to be."""
    finish(service.database, batch_id)
    if explore(service.database, service.settings, service.prices, batch_id):
        service.publisher.publish(DispatchDue())
