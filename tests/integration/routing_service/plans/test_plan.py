"""Planning on a real database: the stored cut gives every request's model, and the expected cost fits the budget."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.models import Request
from routing_service.money.pricing import input_bound, output_bound, price_book, worst_case_nano
from routing_service.plans.plan import plan
from routing_service.routers.registry import Routers
from routing_service.scoring.score import score
from tests.support.factories import STRONG, chat_line, ingested_batch, make_settings, planned_batch
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of, upgraded

SETTINGS = make_settings(score={"range_lines": 50})
INF = float("inf")


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
    assert not plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    after = batch_of(database, batch_id)
    assert (after.planned_at, after.shadow_price, after.cut_line) == (
        before.planned_at,
        before.shadow_price,
        before.cut_line,
    )


def test_nothing_is_planned_before_every_range_is_scored(database: Database) -> None:
    batch_id = ingested_batch(database, 100, SETTINGS)
    score(database, SETTINGS, price_book(SETTINGS), Routers(SETTINGS), batch_id, 1)
    assert not plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    assert batch_of(database, batch_id).planned_at is None


def test_a_cancelled_batch_gets_no_plan(database: Database) -> None:
    batch_id = ingested_batch(database, 5, SETTINGS)
    score(database, SETTINGS, price_book(SETTINGS), Routers(SETTINGS), batch_id, 1)
    with database.transaction() as session:
        session.execute(text("update batches set state = 'cancelling', cancelling_at = now()"))
    assert not plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    assert not plan(database, SETTINGS, price_book(SETTINGS), "batch_unknown")


def test_a_batch_is_not_planned_while_a_model_is_not_configured(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    score(database, SETTINGS, price_book(SETTINGS), Routers(SETTINGS), batch_id, 1)
    without = make_settings(models={"strong": STRONG}, routing={"candidates": ["strong"]})
    assert not plan(database, without, price_book(without), batch_id)
    assert batch_of(database, batch_id).paused == "model_removed"
    sweep(database, SETTINGS, FakePublisher())
    assert plan(database, SETTINGS, price_book(SETTINGS), batch_id)
