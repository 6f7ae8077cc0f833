"""Planning on a real database: the stored cut gives every request's model, and the expected cost fits the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, text

from routing_service.batches.plan import plan
from routing_service.batches.replan import replan, take_due
from routing_service.batches.score import score
from routing_service.db import Database
from routing_service.models import Batch, Request
from routing_service.pricing import input_bound, output_bound, price_book, worst_case_nano
from routing_service.routers import Routers
from tests.factories import chat_line, ingested_batch, make_settings, planned_batch

SETTINGS = make_settings(score={"range_lines": 50})
INF = float("inf")


def batch_of(database: Database, batch_id: str) -> Batch:
    with database.transaction() as session:
        return session.get_one(Batch, batch_id)


def upgraded(database: Database, batch: Batch) -> Sequence[Request]:
    """The requests that the stored cut sends to the strong model."""
    rule = (Request.ratio > batch.shadow_price) | (
        (Request.ratio == batch.shadow_price) & (Request.line <= batch.cut_line)
    )
    with database.transaction() as session:
        return session.scalars(select(Request).where(Request.batch_id == batch.id, rule)).all()


def extra(row: Request) -> int:
    assert row.expected_cost_nano
    return row.expected_cost_nano[1] - row.expected_cost_nano[0]


def weak_worst_nano(row: Request) -> int:
    model = SETTINGS.models["weak"]
    bound = input_bound(row.input_bytes, model)
    price = price_book(SETTINGS).price("weak", bound)
    return worst_case_nano(price, bound, output_bound(row.output_cap, row.choices, model))


def test_the_plan_spends_the_budget_and_no_more(database: Database) -> None:
    budget = 400_000_000
    batch = batch_of(database, planned_batch(database, 120, SETTINGS, budget_nano=budget))
    chosen = upgraded(database, batch)
    assert 0 < len(chosen) < 120
    assert batch.expected_cost_nano == batch.floor_nano + sum(map(extra, chosen))
    assert batch.expected_gain == pytest.approx(sum(2 * row.win_rate - 1 for row in chosen if row.win_rate))
    margin = max(map(weak_worst_nano, chosen))
    assert batch.expected_cost_nano <= budget - margin
    assert batch.expected_cost_nano > budget - 2 * margin - max(map(extra, chosen))
    assert batch.planned_at is not None


def test_a_budget_that_does_not_bind_buys_the_strong_model_for_all(database: Database) -> None:
    batch = batch_of(database, planned_batch(database, 20, SETTINGS, budget_nano=10**12))
    assert batch.shadow_price == 0
    assert len(upgraded(database, batch)) == 20


def test_the_least_budget_upgrades_nothing(database: Database) -> None:
    probe = batch_of(database, ingested_batch(database, 20, SETTINGS))
    with database.transaction() as session:
        rows = session.scalars(select(Request).where(Request.batch_id == probe.id)).all()
    least = probe.floor_nano + max(map(weak_worst_nano, rows))
    batch = batch_of(database, planned_batch(database, 20, SETTINGS, budget_nano=least))
    assert (batch.shadow_price, batch.cut_line) == (INF, 0)
    assert upgraded(database, batch) == []


def test_a_share_is_cut_at_the_top_of_the_gains(database: Database) -> None:
    options = {"mode": "share", "strong_share": 0.3}
    batch = batch_of(database, planned_batch(database, 60, SETTINGS, budget_nano=10**10, options=options))
    chosen = upgraded(database, batch)
    assert len(chosen) == 18
    with database.transaction() as session:
        best = session.scalars(select(Request.win_rate).order_by(Request.win_rate.desc()).limit(18)).all()
    assert sorted(row.win_rate or 0 for row in chosen) == sorted(rate or 0 for rate in best)


def test_a_threshold_is_stored_as_the_shadow_price(database: Database) -> None:
    options = {"mode": "threshold", "threshold": 0.75}
    batch = batch_of(database, planned_batch(database, 60, SETTINGS, budget_nano=10**10, options=options))
    chosen = upgraded(database, batch)
    assert batch.shadow_price == 0.75
    assert 0 < len(chosen) < 60
    assert all(row.win_rate and row.win_rate >= 0.75 for row in chosen)


def test_a_pinned_line_costs_what_it_costs_and_gains_nothing(database: Database) -> None:
    lines: list[Any] = [chat_line("a", routing={"model": "strong"}), chat_line("b", routing={"model": "weak"})]
    batch = batch_of(database, planned_batch(database, lines, SETTINGS))
    assert batch.expected_gain == 0
    assert batch.expected_cost_nano == batch.floor_nano


def test_an_unscored_batch_is_planned_cheapest_first(database: Database) -> None:
    settings = make_settings(score={"max_attempts": 1})
    lines = [chat_line(str(n), "x" * (1 + 4000 * (n % 2))) for n in range(20)]
    batch = batch_of(database, planned_batch(database, lines, settings, budget_nano=100_000_000, router="oracle"))
    chosen = upgraded(database, batch)
    assert batch.unscored
    assert 0 < len(chosen) <= 10
    assert {row.line % 2 for row in chosen} == {1}  # the short ones, which stand on odd lines


def test_a_plan_that_stands_is_kept(database: Database) -> None:
    batch_id = planned_batch(database, 20, SETTINGS, budget_nano=100_000_000)
    before = batch_of(database, batch_id)
    assert not plan(database, SETTINGS, batch_id)
    after = batch_of(database, batch_id)
    assert (after.planned_at, after.shadow_price, after.cut_line) == (
        before.planned_at,
        before.shadow_price,
        before.cut_line,
    )


def test_nothing_is_planned_before_every_range_is_scored(database: Database) -> None:
    batch_id = ingested_batch(database, 100, SETTINGS)
    score(database, SETTINGS, Routers(SETTINGS), batch_id, 1)
    assert not plan(database, SETTINGS, batch_id)
    assert batch_of(database, batch_id).planned_at is None


def test_a_cancelled_batch_gets_no_plan(database: Database) -> None:
    batch_id = ingested_batch(database, 5, SETTINGS)
    score(database, SETTINGS, Routers(SETTINGS), batch_id, 1)
    with database.transaction() as session:
        session.execute(text("update batches set state = 'cancelling', cancelling_at = now()"))
    assert not plan(database, SETTINGS, batch_id)
    assert not plan(database, SETTINGS, "batch_unknown")


def test_a_replan_spends_what_shorter_answers_left_over(database: Database) -> None:
    """Answers cost half of what was expected: about twice as many of the rest are upgraded, within the budget."""
    batch_id = planned_batch(database, 400, SETTINGS, budget_nano=600_000_000)
    before = batch_of(database, batch_id)
    _answer(database, before, share_of_expected=0.5, lines=100)
    assert replan(database, SETTINGS, batch_id)
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
    batch_id = planned_batch(database, 400, SETTINGS, budget_nano=600_000_000)
    before = batch_of(database, batch_id)
    _answer(database, before, share_of_expected=1.5, lines=60)
    assert replan(database, SETTINGS, batch_id)
    after = batch_of(database, batch_id)
    assert len(upgraded(database, after)) < len(upgraded(database, before))


def test_only_a_plan_for_a_budget_is_made_anew(database: Database) -> None:
    options = {"mode": "share", "strong_share": 0.3}
    batch_id = planned_batch(database, 60, SETTINGS, budget_nano=10**10, options=options)
    assert not replan(database, SETTINGS, batch_id)
    assert not replan(database, SETTINGS, "batch_of_nobody")


def test_a_new_cut_falls_due_once_for_each_twentieth_of_a_batch(database: Database) -> None:
    batch_id = planned_batch(database, 400, SETTINGS, budget_nano=600_000_000)
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
