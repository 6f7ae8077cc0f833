"""Makers of limited keys, and what tests read of their budgets."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import Claim, Ticket, claim
from routing_service.dispatch.settle import settle
from routing_service.dispatch.sweep import sweep
from routing_service.models import AttemptState, Batch, EntryBasis, Period
from routing_service.money import ledger
from routing_service.money.budgets import KeyBudget, set_limit, standing
from routing_service.money.pricing import price_book
from routing_service.upstream.outcome import LOST, Outcome, RetryPolicy, Usage
from tests.support.factories import make_key, make_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import NANO, Planned, make_planned_batch

SETTINGS = make_settings()
PRICES = price_book(SETTINGS)
POLICY = RetryPolicy.of(SETTINGS.dispatch)
SLOTS = {"weak": 100, "strong": 100}
STRONG, WEAK = Planned(ratio=2.0), Planned(ratio=0.5)


def limited_key(session: Session, limit_nano: int, period: Period = Period.DAY) -> str:
    """The id of a new key with a limit."""
    key_id = make_key(session).id
    set_limit(session, key_id, period, limit_nano)
    return key_id


def stands(database: Database, key_id: str, period: Period = Period.DAY) -> KeyBudget:
    with database.transaction() as session:
        return next(budget for budget in standing(session, key_id) if budget.period is period)


def pause_of(database: Database, batch_id: str) -> tuple[str | None, str]:
    """What pauses a batch, and the reason it gives."""
    with database.transaction() as session:
        batch = session.get_one(Batch, batch_id)
        return batch.paused, batch.paused_reason or ""


def end_period(database: Database, key_id: str) -> None:
    """As if the key's present days and months had passed: all that is in them happened so much earlier."""
    with database.transaction() as session:
        session.execute(
            text(
                "update attempts set started_at = started_at - interval '32 days' where batch_id in"
                " (select id from batches where api_key_id = :key)"
            ),
            {"key": key_id},
        )
        oldest_first = text("select id from budgets where api_key_id = :key order by period_start")
        for budget_id in session.scalars(oldest_first, {"key": key_id}).all():
            session.execute(
                text(
                    "update budgets set period_start = period_start - interval '32 days', resets_at = resets_at"
                    " - interval '32 days', opened_at = opened_at - interval '32 days', closed_at = closed_at"
                    " - interval '32 days' where id = :id"
                ),
                {"id": budget_id},
            )


class Key:
    """A key with a limit, its batches, and a pump that claims for them."""

    def __init__(self, database: Database, limit_nano: int, period: Period = Period.DAY) -> None:
        self.database = database
        self.pump = lease.open_lease(database, 60)
        with database.transaction() as session:
            self.id = limited_key(session, limit_nano, period)

    def batch(self, requests: Sequence[Planned], **options: Any) -> str:
        with self.database.transaction() as session:
            return make_planned_batch(session, requests, key_id=self.id, shadow_price=1.0, **options)

    def claim(self, batch_id: str, slots: Mapping[str, int] = SLOTS) -> Claim:
        with self.database.transaction() as session:
            return claim(session, SETTINGS, PRICES, self.pump.pump_id, batch_id, slots)

    def settle(self, tickets: Sequence[Ticket], outcome: Outcome = LOST) -> None:
        """Settle calls, in full unless an outcome says otherwise."""
        results = [t.result(outcome) for t in tickets]
        with self.database.transaction() as session:
            settle(session, results, POLICY, random.Random(0))

    def limit(self, period: Period, limit_nano: int) -> None:
        with self.database.transaction() as session:
            set_limit(session, self.id, period, limit_nano)

    def sweep(self) -> None:
        sweep(self.database, SETTINGS, FakePublisher())

    def differences(self) -> list[ledger.Difference]:
        with self.database.transaction() as session:
            return ledger.verify(session)


ANSWER = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=Usage(10, 1))


def worst_case(database: Database, request: Planned) -> int:
    """The worst case of a request, as a claim reserves it."""
    key = Key(database, NANO)
    (ticket,) = key.claim(key.batch([request])).tickets
    return ticket.reserved_nano
