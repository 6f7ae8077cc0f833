"""A batch run to its end without an upstream: claimed, answered with known usage, settled and planned again, in memory.

Stands in for the pump where only money matters: thousands of answers take seconds.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import Ticket, claim
from routing_service.dispatch.settle import Result, settle
from routing_service.models import AttemptState, EntryBasis
from routing_service.money.pricing import price_book
from routing_service.plans.replan import replan, take_due
from routing_service.settings import Settings
from routing_service.upstream.outcome import Outcome, RetryPolicy, Usage

SETTLED_AT_ONCE = 16

Answers = Callable[[Ticket], Usage]  # what a call uses


class Answered:
    """Settles tickets by the usage that each has. Returns the batches that are due for a new cut."""

    def __init__(self, database: Database, settings: Settings, usage: Answers) -> None:
        self._database, self._policy, self._usage = database, RetryPolicy.of(settings.dispatch), usage
        self._rng = random.Random(0)

    def __call__(self, tickets: Sequence[Ticket]) -> list[str]:
        with self._database.transaction() as session:
            settle(session, [_result(t, self._usage(t)) for t in tickets], self._policy, self._rng)
            return take_due(session, sorted({ticket.batch_id for ticket in tickets}))


def claimed(
    database: Database, settings: Settings, pump_id: int, batch_id: str, slots: dict[str, int] | None = None
) -> list[Ticket]:
    """A claim chunk of the batch, for 64 free slots a model unless told otherwise."""
    free = dict.fromkeys(settings.models, 64) if slots is None else slots
    with database.transaction() as session:
        return claim(session, settings, price_book(settings), pump_id, batch_id, free).tickets


def run_out(database: Database, settings: Settings, batch_id: str, usage: Answers, in_flight: int = 64) -> None:
    """Dispatch the planned batch until nothing is left to claim, with so many calls in flight a model."""
    pump = lease.open_lease(database, 3600)
    settled = Answered(database, settings, usage)
    open_tickets: deque[Ticket] = deque()
    idle = False
    while True:
        slots = {key: in_flight - sum(t.model == key for t in open_tickets) for key in settings.models}
        got = claimed(database, settings, pump.pump_id, batch_id, slots)
        open_tickets += got
        if not open_tickets:
            if idle:
                return
            idle = True  # what a claim in vain has changed shows in the next one
            continue
        idle = False
        if got and len(open_tickets) < in_flight:
            continue
        for moved in settled([open_tickets.popleft() for _ in range(min(SETTLED_AT_ONCE, len(open_tickets)))]):
            replan(database, settings, price_book(settings), moved)


def _result(ticket: Ticket, usage: Usage) -> Result:
    outcome = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=usage)
    return ticket.result(outcome)


def left_of_budget(database: Database, batch_id: str) -> int:
    """What is left of the batch's budget, in nano-dollars."""
    query = text("select limit_nano - settled_nano - reserved_nano from budgets where batch_id = :id")
    with database.transaction() as session:
        left: int = session.execute(query, {"id": batch_id}).scalar_one()
    return left
