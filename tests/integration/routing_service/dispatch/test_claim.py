"""Claiming a claim chunk on a real Postgres: order, leases, and when a batch stands still."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import claim
from routing_service.dispatch.settle import settle
from routing_service.errors import LeaseLostError
from routing_service.models import AttemptState, Batch, EntryBasis
from routing_service.money.pricing import price_book
from routing_service.upstream.outcome import Outcome, RetryPolicy, Usage
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.planned import Planned, make_planned_batch

SLOTS = {"weak": 100, "strong": 100}


def _plan(database: Database, requests: Sequence[Planned], **options: Any) -> str:
    with database.transaction() as session:
        return make_planned_batch(session, requests, **options)


def test_clear_cases_are_claimed_before_marginal_ones(database: Database) -> None:
    batch_id = _plan(database, [Planned(ratio=r) for r in (1.1, 5.0, 0.9, 0.1)], shadow_price=1.0)
    settings = make_settings(dispatch={"claim_chunk": 1})
    held = lease.open_lease(database, 30)
    with database.transaction() as session:
        got = claim(session, settings, price_book(settings), held.pump_id, batch_id, SLOTS)
    assert sorted(ticket.line for ticket in got.tickets) == [2, 4]


def test_lines_of_a_higher_priority_are_claimed_before_all_others(database: Database) -> None:
    """Whichever end of the ranking they are at; the first of them is the first to get what money there is."""
    dear, cheap = 1.5, 0.5
    lines = [(dear, 5), (cheap, 5), (dear, 9), (cheap, 9), (9.0, 5), (0.1, 5), (dear, 0)]
    batch_id = _plan(database, [Planned(ratio=ratio, priority=level) for ratio, level in lines], shadow_price=1.0)
    settings = make_settings()
    held = lease.open_lease(database, 30)

    def claimed(slots: int) -> list[int]:
        with database.transaction() as session:
            free = dict.fromkeys(SLOTS, slots)
            got = claim(session, settings, price_book(settings), held.pump_id, batch_id, free)
        return [ticket.line for ticket in got.tickets]

    assert claimed(1) == [3, 4]
    assert claimed(2) == [5, 1, 6, 2]
    assert claimed(9) == [7]


def test_a_bite_reads_few_rows_however_many_there_are(database: Database) -> None:
    """Nothing was analyzed since the rows came: the planner knows nothing, as in a batch's first minute."""
    batch_id = _plan(database, [Planned()], shadow_price=0.5)
    held = lease.open_lease(database, 30)
    columns = "batch_id, custom_id, body, input_bytes, state, floor_nano"
    with database.transaction() as session:
        session.execute(
            text(
                f"insert into requests (line, ratio, {columns}) select g, (g * 7919 % 5000) / 5000.0, batch_id,"
                f" 'r' || g, {columns.partition('custom_id, ')[2]} from requests, generate_series(2, 5000) g"
            )
        )
    settings = make_settings(dispatch={"claim_chunk": 10})
    rows_read = text("select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relname = 'requests'")
    with database.transaction() as session:
        before = session.scalar(rows_read)
        got = claim(session, settings, price_book(settings), held.pump_id, batch_id, SLOTS)
        after = session.scalar(rows_read)
    assert len(got.tickets) == 20
    assert before is not None
    assert after is not None
    assert after - before < 100


def test_lines_pinned_to_a_stopped_model_do_not_stand_in_the_way_of_others(database: Database) -> None:
    """They come first in their end of the ranking, more of them than a claim chunk holds, and none may be sent."""
    settings = make_settings(
        models={"strong": STRONG, "weak": WEAK, "mid": STRONG | {"name": "m"}}, dispatch={"claim_chunk": 4}
    )
    pinned = Planned(ratio=float("-inf"), pinned="mid")
    batch_id = _plan(database, [pinned] * 8 + [Planned(ratio=0.1)] * 2, shadow_price=1.0)
    pump = lease.open_lease(database, 30).pump_id
    with database.transaction() as session:
        (above,) = claim(session, settings, price_book(settings), pump, batch_id, {"mid": 1}).tickets
    usage = Usage(10**6, 10**6)
    billed = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=usage)
    with database.transaction() as session:
        settle(session, [above.result(billed)], RetryPolicy.of(settings.dispatch), random.Random(0))
        session.execute(text("update budgets set limit_nano = 10 ^ 15"))
    with database.transaction() as session:
        got = claim(session, settings, price_book(settings), pump, batch_id, dict.fromkeys(settings.models, 9))
    assert sorted(ticket.line for ticket in got.tickets) == [9, 10]


def test_a_pump_whose_lease_ran_out_claims_nothing(database: Database) -> None:
    batch_id = _plan(database, [Planned()])
    settings = make_settings()
    held = lease.open_lease(database, 30)
    lease.close_lease(database, held)
    with pytest.raises(LeaseLostError), database.transaction() as session:
        claim(session, settings, price_book(settings), held.pump_id, batch_id, SLOTS)


def test_a_batch_is_not_paused_while_its_cheap_requests_only_wait_for_a_slot(database: Database) -> None:
    """The pinned line can never be paid for; the others can, as soon as the cheap model has a free slot."""
    pinned = Planned(ratio=float("inf"), pinned="strong", output_cap=512)
    batch_id = _plan(database, [pinned, Planned()], budget_nano=1_000_000, options={"on_budget": "wait"})
    settings = make_settings()
    held = lease.open_lease(database, 30)

    def claimed(weak_slots: int) -> list[int]:
        with database.transaction() as session:
            slots = {"weak": weak_slots, "strong": 100}
            return [
                t.line for t in claim(session, settings, price_book(settings), held.pump_id, batch_id, slots).tickets
            ]

    def paused() -> str | None:
        with database.transaction() as session:
            return session.get_one(Batch, batch_id).paused

    assert (claimed(0), paused()) == ([], None)
    assert (claimed(1), paused()) == ([2], None)
    with database.transaction() as session:
        session.execute(text("update budgets set reserved_nano = 0"))  # as if the call in flight had been settled
    assert (claimed(1), paused()) == ([], "budget")
