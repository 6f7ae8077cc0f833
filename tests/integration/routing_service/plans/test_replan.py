"""Cutting the rest of a batch anew on a real database, by what its answers cost."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.lease import open_lease
from routing_service.models import Batch, Request
from routing_service.money.pricing import price_book
from routing_service.plans.probing import end_probing
from routing_service.plans.replan import PRIOR_REQUESTS, replan, take_due
from routing_service.settings import Settings
from tests.support.factories import chat_line, make_settings, planned_batch
from tests.support.reading import batch_of, upgraded

SETTINGS = make_settings(score={"range_lines": 50})


def known_batch(database: Database, content: int | list[Any], settings: Settings, **columns: Any) -> str:
    """A planned batch whose probes are in."""
    batch_id = planned_batch(database, content, settings, **columns)
    with database.transaction() as session:
        end_probing(session, batch_id)
    return batch_id


def test_a_replan_spends_what_shorter_answers_left_over(database: Database) -> None:
    """Answers cost half of what was expected: about twice as many of the rest are upgraded, within the budget."""
    batch_id = known_batch(database, 400, SETTINGS, budget_nano=600_000_000)
    before = batch_of(database, batch_id)
    _answer(database, before, share_of_expected=0.5, lines=100)
    assert replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    after = batch_of(database, batch_id)
    assert after.shadow_price is not None
    assert before.shadow_price is not None
    assert after.shadow_price < before.shadow_price
    with database.transaction() as session:
        left = session.scalars(select(Request).where(Request.batch_id == batch_id, Request.state == "scored")).all()
        settled = session.scalar(text("select settled_nano from budgets where batch_id = :id"), {"id": batch_id})
    chosen = {row.line for row in upgraded(database, after)}
    costs = [(row.expected_cost_nano or [0, 0])[row.line in chosen] for row in left]
    assert settled is not None
    assert 0.75 * 600_000_000 < settled + 0.5 * sum(costs) <= 600_000_000


def test_a_replan_downgrades_before_the_money_runs_out(database: Database) -> None:
    batch_id = known_batch(database, 400, SETTINGS, budget_nano=600_000_000)
    before = batch_of(database, batch_id)
    _answer(database, before, share_of_expected=1.5, lines=60)
    assert replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    after = batch_of(database, batch_id)
    assert len(upgraded(database, after)) < len(upgraded(database, before))


def test_after_a_replan_the_expected_totals_are_those_of_the_whole_batch_under_the_new_cut(database: Database) -> None:
    """What is settled, what the calls in flight will probably cost, and what the new cut expects of the rest."""
    batch_id = known_batch(database, 400, SETTINGS, budget_nano=600_000_000)
    before = batch_of(database, batch_id)
    _answer(database, before, share_of_expected=0.5, lines=100)
    _send(database, before, lines=(101, 120))
    assert replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    after = batch_of(database, batch_id)
    with database.transaction() as session:
        rows = session.scalars(select(Request).where(Request.batch_id == batch_id)).all()
    chosen = {row.line for row in upgraded(database, after)}
    strong = [row for row in rows if row.model == "strong" or (row.state == "scored" and row.line in chosen)]
    cost = sum(row.cost_nano for row in rows)
    for model, mine in (("weak", [row for row in rows if row not in strong]), ("strong", strong)):
        answered = sum(row.state == "succeeded" for row in mine)
        factor = 0.5 ** (answered / (answered + PRIOR_REQUESTS))
        costs = [(row.expected_cost_nano or [0, 0])[model == "strong"] for row in mine if row.state != "succeeded"]
        cost += round(factor * sum(costs))
    assert after.expected_cost_nano == pytest.approx(cost, rel=1e-3)
    assert cost <= 600_000_000
    assert after.expected_gain == pytest.approx(sum(2 * (row.win_rate or 0) - 1 for row in strong))
    assert after.expected_gain is not None
    assert after.expected_gain > (before.expected_gain or 0)


def test_a_pinned_line_in_flight_adds_its_cost_and_no_gain(database: Database) -> None:
    pins = [chat_line(f"p{n}", routing={"model": "strong"}) for n in range(4)]
    batch_id = known_batch(database, [*pins, *(chat_line(f"a{n}") for n in range(20))], SETTINGS)
    before = batch_of(database, batch_id)
    _send(database, before, lines=(1, 4))
    assert replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    after = batch_of(database, batch_id)
    assert after.expected_gain == pytest.approx(before.expected_gain)
    assert after.expected_cost_nano == before.expected_cost_nano


def test_only_a_plan_for_a_budget_is_made_anew(database: Database) -> None:
    options = {"mode": "share", "strong_share": 0.3}
    batch_id = known_batch(database, 60, SETTINGS, budget_nano=10**10, options=options)
    assert not replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    assert not replan(database, SETTINGS, price_book(SETTINGS), "batch_of_nobody")


def test_a_new_cut_falls_due_once_for_each_twentieth_of_a_batch(database: Database) -> None:
    batch_id = known_batch(database, 400, SETTINGS, budget_nano=600_000_000)
    due = []
    for succeeded in (0, 1, 10, 21, 22, 60, 399, 400):
        with database.transaction() as session:
            session.execute(text("update batches set succeeded = :n where id = :id"), {"n": succeeded, "id": batch_id})
            due.append(bool(take_due(session, [batch_id])))
    assert due == [False, True, False, True, False, True, True, False]


def _answer(database: Database, batch: Batch, *, share_of_expected: float, lines: int) -> None:
    """The first lines are answered by the model that the plan gives them, at a share of the expected cost."""
    values = {"id": batch.id, "share": share_of_expected, "lines": lines, "price": batch.shadow_price}
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set state = 'succeeded', finished_at = now(), response = '{}',"
                " model = case when ratio > :price then 'strong' else 'weak' end,"
                " cost_nano = :share * expected_cost_nano[case when ratio > :price then 2 else 1 end]"
                " where batch_id = :id and line <= :lines"
            ),
            values,
        )
        session.execute(
            text(
                "update budgets set settled_nano = (select sum(cost_nano) from requests where batch_id = :id)"
                " where batch_id = :id"
            ),
            values,
        )


def _send(database: Database, batch: Batch, *, lines: tuple[int, int]) -> None:
    """These lines are in flight at the model that the plan gives them."""
    held = open_lease(database, 30)
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set state = 'dispatching', pump_id = :pump, model = case when ratio > :price"
                " or pinned = 'strong' then 'strong' else 'weak' end"
                " where batch_id = :id and line between :first and :last"
            ),
            {
                "id": batch.id,
                "pump": held.pump_id,
                "price": batch.shadow_price,
                "first": lines[0],
                "last": lines[1],
            },
        )
