"""A batch run to its end without an upstream: claimed, answered with known usage, settled and planned again, in memory.

Stands in for the pump where only money matters: thousands of answers take seconds.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from sqlalchemy import text

from routing_service.batches import lease
from routing_service.batches.claim import Ticket, claim
from routing_service.batches.replan import replan, take_due
from routing_service.batches.settle import Result, settle
from routing_service.db import Database
from routing_service.models import AttemptState, EntryBasis
from routing_service.outcomes import Outcome, RetryPolicy, Usage
from routing_service.pricing import price_book
from routing_service.settings import Settings

SETTLED_AT_ONCE = 16

Answers = Callable[[Ticket], Usage]  # what a call uses


def run_out(database: Database, settings: Settings, batch_id: str, usage: Answers, in_flight: int = 64) -> None:
    """Dispatch the planned batch until nothing is left to claim, with so many calls in flight a model."""
    pump = lease.open_lease(database, 3600)
    prices, policy, rng = price_book(settings), RetryPolicy.of(settings.dispatch), random.Random(0)
    flying: deque[Ticket] = deque()
    while True:
        slots = {key: in_flight - sum(t.model == key for t in flying) for key in settings.models}
        with database.transaction() as session:
            got = claim(session, settings, prices, pump.pump_id, batch_id, slots)
        flying += got.tickets
        if not flying:
            return
        if got.tickets and len(flying) < in_flight:
            continue
        done = [flying.popleft() for _ in range(min(SETTLED_AT_ONCE, len(flying)))]
        with database.transaction() as session:
            settle(session, [_result(ticket, usage(ticket)) for ticket in done], policy, rng)
            due = take_due(session, [batch_id])
        for moved in due:
            replan(database, settings, moved)


def _result(ticket: Ticket, usage: Usage) -> Result:
    outcome = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=usage)
    return Result(ticket.batch_id, ticket.line, ticket.attempt_id, ticket.number, ticket.price, outcome)


def left_of_budget(database: Database, batch_id: str) -> int:
    """What is left of the batch's budget, in nano-dollars."""
    query = text("select limit_nano - settled_nano - reserved_nano from budgets where batch_id = :id")
    with database.transaction() as session:
        left: int = session.execute(query, {"id": batch_id}).scalar_one()
    return left
