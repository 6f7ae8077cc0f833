"""Where money is short: the floor that is left for others, waiting, downgrading, and how a batch stops or pauses."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from sqlalchemy import select, text

from routing_service.batches.view import TotalsCache, batch_object
from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import Claim, Ticket, claim
from routing_service.dispatch.finish import finish
from routing_service.dispatch.settle import settle
from routing_service.models import AttemptState, Batch, EntryBasis, Request
from routing_service.money import ledger
from routing_service.money.pricing import input_bound, output_bound, price_book, worst_case_nano
from routing_service.upstream.outcome import Outcome, RetryPolicy, Usage
from tests.support.factories import make_settings
from tests.support.planned import Planned, make_planned_batch
from tests.support.pumping import budget_of, pump_settings, run_pump, states_of
from tests.support.upstreams.sandbox_server import run_sandbox

SETTINGS = make_settings()
STRONG, WEAK = Planned(ratio=2.0), Planned(ratio=0.5)  # above and below the cut
FLOOR = 100_000  # of each request


def _worst(model: str, planned: Planned = STRONG) -> int:
    """What a call of the model reserves for such a request."""
    given = len(json.dumps([{"role": "user", "content": planned.prompt}]).encode())
    bounds = input_bound(given, SETTINGS.models[model]), output_bound(planned.output_cap, 1, SETTINGS.models[model])
    return worst_case_nano(price_book(SETTINGS).price(model, bounds[0]), *bounds)


class Pumped:
    """A batch, and a pump that is moved by hand."""

    def __init__(self, database: Database, requests: list[Planned], budget_nano: int, **options: Any) -> None:
        self.database = database
        with database.transaction() as session:
            self.batch_id = make_planned_batch(
                session, requests, budget_nano=budget_nano, shadow_price=1.0, floor_each=FLOOR, options=options
            )
        self._pump_id = lease.open_lease(database, 60).pump_id

    def claim(self, weak: int = 9, strong: int = 9) -> Claim:
        with self.database.transaction() as session:
            slots = {"weak": weak, "strong": strong}
            return claim(session, SETTINGS, price_book(SETTINGS), self._pump_id, self.batch_id, slots)

    def settle(self, ticket: Ticket, output_tokens: int) -> None:
        outcome = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, 200, body="{}", usage=Usage(0, output_tokens))
        result = ticket.result(outcome)
        with self.database.transaction() as session:
            settle(session, [result], RetryPolicy.of(SETTINGS.dispatch), random.Random(0))

    def sent(self) -> list[tuple[int, str, str]]:
        """(line, model, reason) of what was ever claimed, by line."""
        with self.database.transaction() as session:
            query = (
                select(Request).where(Request.batch_id == self.batch_id, Request.attempts > 0).order_by(Request.line)
            )
            return [(row.line, str(row.model), str(row.reason)) for row in session.scalars(query)]


@pytest.mark.parametrize(
    ("missing_nano", "sent"), [(0, (1, "strong", "plan")), (1, (1, "weak", "budget"))], ids=["fits", "one too little"]
)
def test_floor_a_strong_reservation_leaves_the_expected_weak_cost_of_all_others(
    database: Database, missing_nano: int, sent: tuple[int, str, str]
) -> None:
    pumped = Pumped(database, [STRONG, *[WEAK] * 4], _worst("strong") + 4 * FLOOR - missing_nano)
    pumped.claim(weak=1, strong=1)
    assert pumped.sent()[0] == sent


def test_floor_shrinks_by_what_is_dispatched(database: Database) -> None:
    """Cheap requests that were answered for less than expected leave room for a strong one."""
    pumped = Pumped(database, [STRONG, *[WEAK] * 4], _worst("strong") + 3 * FLOOR)
    for ticket in pumped.claim(strong=0).tickets:
        pumped.settle(ticket, output_tokens=1)
    pumped.claim()
    assert pumped.sent()[0] == (1, "strong", "plan")


def test_wait_for_money_in_flight_comes_before_a_downgrade(database: Database) -> None:
    pumped = Pumped(database, [STRONG, STRONG], _worst("strong") + 2 * FLOOR)
    (first,) = pumped.claim(strong=1).tickets
    waiting = pumped.claim()
    assert (waiting.tickets, waiting.waiting) == ([], True)
    pumped.settle(first, output_tokens=1)
    pumped.claim()
    assert pumped.sent() == [(1, "strong", "plan"), (2, "strong", "plan")]


def test_downgrade_where_nothing_is_in_flight_and_the_strong_model_does_not_fit(database: Database) -> None:
    pumped = Pumped(database, [STRONG, STRONG], _worst("strong") + 2 * FLOOR)
    (first,) = pumped.claim(strong=1).tickets
    pumped.settle(first, output_tokens=64)
    pumped.claim()
    assert pumped.sent() == [(1, "weak", "budget"), (2, "strong", "plan")]


def test_unaffordable_only_where_the_weak_model_does_not_fit_either(database: Database) -> None:
    pumped = Pumped(database, [STRONG], _worst("weak"))
    assert [ticket.model for ticket in pumped.claim().tickets] == ["weak"]
    short = Pumped(database, [STRONG], _worst("weak") - 1)
    assert short.claim().tickets == []
    assert states_of(database, short.batch_id) == {"unaffordable": 1}


def test_stop_ends_the_batch_completed_and_incomplete_and_never_passes_the_limit(database: Database) -> None:
    """The default: what it can pay is answered, by the strong model first, then by the weak one."""
    with database.transaction() as session:
        requests = [Planned(ratio=2.0, prompt=f"Prompt {n}") for n in range(150)]
        batch_id = make_planned_batch(session, requests, shadow_price=1.0, budget_nano=4_000_000)
    with run_sandbox(latency_ms=2) as sandbox:
        run_pump(database, pump_settings(sandbox.base_url))
        billed, models = sandbox.billed_nano(), sandbox.stats()["models"]
    assert min(model["answered"] for model in models.values()) > 0
    assert finish(database, batch_id)
    budget = budget_of(database, batch_id)
    assert (budget.reserved_nano, budget.settled_nano) == (0, billed)
    assert billed <= budget.limit_nano < billed + _worst("weak", requests[-1])
    states = states_of(database, batch_id)
    assert states["unaffordable"] == 150 - states["succeeded"] > 0
    with database.transaction() as session:
        assert ledger.verify(session) == []
        assert session.scalar(text("select count(*) from decisions where reason = 'budget'"))
        batch = session.get_one(Batch, batch_id)
        shown = batch_object(session, TotalsCache(), batch.api_key_id, batch_id)
    assert (shown["status"], shown["routing"]["incomplete"], shown["routing"]["paused"]) == ("completed", True, None)


def test_wait_pauses_the_batch_in_progress_with_its_reason(database: Database) -> None:
    pumped = Pumped(database, [STRONG, STRONG], _worst("weak"), on_budget="wait")
    (ticket,) = pumped.claim().tickets
    assert pumped.claim().waiting  # money is in flight: no pause yet
    pumped.settle(ticket, output_tokens=64)
    assert pumped.claim().may_finish
    assert states_of(database, pumped.batch_id) == {"succeeded": 1, "scored": 1}
    with database.transaction() as session:
        batch = session.get_one(Batch, pumped.batch_id)
        shown = batch_object(session, TotalsCache(), batch.api_key_id, batch.id)
    assert (shown["status"], shown["routing"]["incomplete"]) == ("in_progress", False)
    assert (shown["routing"]["paused"], bool(shown["routing"]["paused_reason"])) == ("budget", True)


def test_wait_lasts_until_the_batch_expires(database: Database) -> None:
    pumped = Pumped(database, [STRONG], _worst("weak") - 1, on_budget="wait")
    assert pumped.claim().may_finish
    assert not finish(database, pumped.batch_id)
    with database.transaction() as session:
        session.execute(text("update batches set expires_at = now()"))
    assert finish(database, pumped.batch_id)
    assert states_of(database, pumped.batch_id) == {"expired": 1}
