"""Previews on a real database: what they say of a budget is what a batch of that budget is planned with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri
from sqlalchemy import select, text

from routing_service.batches.lifecycle import cancel
from routing_service.db import Database
from routing_service.dispatch.fairness import runnable_batches
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.events import FinishDue
from routing_service.models import Batch, BatchState, Budget, Request
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from routing_service.plans.replan import replan
from routing_service.settings import Settings
from tests.support.factories import (
    STRONG,
    WEAK,
    chat_line,
    ingested_batch,
    make_settings,
    planned_batch,
    previewed_batch,
    score_all,
)
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of, upgraded

SETTINGS = make_settings(score={"range_lines": 50})
MIDDLE = STRONG | {"input_usd_per_million": 3, "output_usd_per_million": 9}
THREE = make_settings(
    models={"weak": WEAK, "middle": MIDDLE, "strong": STRONG, "other": STRONG | {"output_usd_per_million": 5}},
    routing={"candidates": ["weak", "middle", "strong"]},
)
PAIR_LINES = [chat_line(f"c-{n}", "x" * (20 + 37 * n % 900)) for n in range(90)]


def mixed_lines(pins: tuple[str, ...]) -> list[Any]:
    """Lines of many lengths, some of them pinned, some with a cap of their own."""
    lines: list[Any] = list(PAIR_LINES)
    for n, model in enumerate(pins):
        lines.append(chat_line(f"pinned-{n}", "y" * 200, routing={"model": model}))
    lines += [chat_line(f"capped-{n}", "z" * 300, routing={"max_cost_usd": "0.002"}) for n in range(5)]
    return lines


def preview_of(database: Database, batch_id: str) -> dict[str, Any]:
    preview = batch_of(database, batch_id).preview
    assert preview
    return preview


def rows_of(database: Database, batch_id: str) -> list[Request]:
    with database.transaction() as session:
        return list(session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)))


@pytest.mark.parametrize(
    ("settings", "pins"), [(SETTINGS, ("strong", "weak")), (THREE, ("strong", "middle", "other", "other"))]
)
def test_every_rung_is_what_a_batch_of_that_budget_is_planned_with(
    database: Database, settings: Settings, pins: tuple[str, ...]
) -> None:
    lines, candidates = mixed_lines(pins), list(settings.candidates)
    preview = preview_of(database, previewed_batch(database, lines, settings, candidates=candidates))
    ladder = preview["ladder"]
    assert len(ladder) > 8
    assert 0 <= ladder[0]["budget_nano"] - preview["least_nano"] < 1000
    assert all(rung["budget_nano"] % 1000 == 0 for rung in ladder)
    for rung in ladder:
        batch = batch_of(
            database,
            planned_batch(database, lines, settings, candidates=candidates, budget_nano=rung["budget_nano"]),
        )
        assert batch.expected_cost_nano == rung["cost_nano"]
        assert batch.expected_gain == pytest.approx(rung["gain"] * len(lines))
        if rung["shadow_price"] is None:
            assert batch.shadow_price == float("inf")
        else:
            assert (batch.shadow_price, batch.cut_line) == (rung["shadow_price"], rung["cut_line"])
        assert sum(rung["share"].values()) == pytest.approx(1)
        for model in pins:
            assert rung["share"][model] >= pins.count(model) / len(lines) - 1e-12
    assert ladder[-1]["recovered"] == pytest.approx(1)


def test_lines_that_share_an_answer_count_each(database: Database) -> None:
    """Thirty prompts, each of them on three lines: every rung's gain and shares are of ninety requests."""
    lines: list[Any] = [chat_line(f"{n}-{k}", f"What is {n} times 7?") for k in range(3) for n in range(30)]
    options = {"dedupe": "batch"}
    ladder = preview_of(database, previewed_batch(database, lines, SETTINGS, options=options))["ladder"]
    single = preview_of(database, previewed_batch(database, lines[:30], SETTINGS))["ladder"]
    rung = ladder[6]
    batch = batch_of(
        database, planned_batch(database, lines, SETTINGS, options=options, budget_nano=rung["budget_nano"])
    )
    assert sum(row.twin_of is not None for row in rows_of(database, batch.id)) == 60
    assert batch.expected_cost_nano == rung["cost_nano"]
    assert batch.expected_gain == pytest.approx(rung["gain"] * 90)
    assert len(upgraded(database, batch)) / 30 == pytest.approx(rung["share"]["strong"])
    assert [part["gain"] for part in ladder] == pytest.approx([part["gain"] for part in single])
    assert [part["high"] for part in ladder] == pytest.approx([part["high"] for part in single])


def test_where_costs_are_damped_a_plan_is_approved_as_it_was_shown(database: Database) -> None:
    """What is expected of answers differs from the prior, and hardly from line to line: gain counts for more."""
    learned = make_settings(models={"strong": STRONG, "weak": WEAK | {"expected_output_tokens": 99}})
    batch_id = ingested_batch(database, 80, SETTINGS, preview={}, budget_nano=250_000_000)
    score_all(database, SETTINGS, batch_id)
    assert not plan(database, learned, price_book(learned), batch_id)
    chosen = preview_of(database, batch_id)["chosen"]
    with database.transaction() as session:
        batch = session.get_one(Batch, batch_id)
        batch.approved_at, batch.planned_at, batch.paused = batch.created_at, None, None
    assert plan(database, learned, price_book(learned), batch_id)
    batch = batch_of(database, batch_id)
    assert batch.cost_power < 1
    assert (batch.shadow_price, batch.cut_line) == (chosen["shadow_price"], chosen["cut_line"])
    assert len(upgraded(database, batch)) / 80 == pytest.approx(chosen["share"]["strong"])


def test_it_names_the_least_budget_and_what_either_model_alone_would_cost(database: Database) -> None:
    batch_id = previewed_batch(database, 40, SETTINGS)
    preview, rows = preview_of(database, batch_id), rows_of(database, batch_id)
    costs = np.array([row.expected_cost_nano for row in rows])
    assert (preview["weak_nano"], preview["strong_nano"]) == tuple(costs.sum(0))
    worst = preview["least_nano"] - preview["weak_nano"]
    longest = max(row.input_bytes for row in rows) + 16
    assert worst == longest * 150 + 512 * 600
    assert preview["chosen"] is None


def test_a_budget_that_is_named_is_shown_beside_the_ladder(database: Database) -> None:
    preview = preview_of(database, previewed_batch(database, 60, SETTINGS, budget_nano=200_000_000))
    assert preview["chosen"]["budget_nano"] == 200_000_000
    below, above = (
        [rung for rung in preview["ladder"] if (rung["budget_nano"] <= 200_000_000) is side] for side in (True, False)
    )
    assert below[-1]["cost_nano"] <= preview["chosen"]["cost_nano"] <= above[0]["cost_nano"]


def test_a_budget_that_is_too_small_still_gets_the_ladder(database: Database) -> None:
    preview = preview_of(database, previewed_batch(database, 60, SETTINGS, budget_nano=1_000))
    assert preview["chosen"] is None
    assert len(preview["ladder"]) > 8


def test_the_interval_rests_on_the_routers_own_deviations(database: Database) -> None:
    """The random router says how far a draw lies from its mean; a batch that is no preview keeps none of it."""
    batch_id = previewed_batch(database, 60, SETTINGS)
    assert all(row.std == pytest.approx([0, np.sqrt(1 / 12) / 2]) for row in rows_of(database, batch_id))
    rung = preview_of(database, batch_id)["ladder"][-1]
    spread = 2 * np.sqrt(1 / 12) / 2
    error = ndtri(0.95) * np.sqrt(0.1 * (60 * spread) ** 2 + 0.9 * 60 * spread**2 + 0.35 * 60) / 60
    assert rung["gain"] - rung["low"] == pytest.approx(error)
    assert all(row.std is None for row in rows_of(database, planned_batch(database, 5, SETTINGS)))


def test_a_router_that_failed_says_nothing_and_its_interval_is_as_wide_as_can_be(database: Database) -> None:
    settings = make_settings(score={"max_attempts": 1})
    batch_id = previewed_batch(database, 20, settings, router="oracle")
    rung = preview_of(database, batch_id)["ladder"][-1]
    assert batch_of(database, batch_id).unscored
    assert rung["gain"] - rung["low"] > 1.645 * np.sqrt(0.1)


@pytest.mark.parametrize("options", [{"mode": "share", "strong_share": 0.3}, {"mode": "threshold", "threshold": 0.75}])
def test_a_mode_that_no_budget_moves_has_one_rung(database: Database, options: dict[str, Any]) -> None:
    preview = preview_of(database, previewed_batch(database, 60, SETTINGS, options=options))
    batch = batch_of(database, planned_batch(database, 60, SETTINGS, options=options, budget_nano=10**10))
    [rung] = preview["ladder"]
    assert rung["cost_nano"] == batch.expected_cost_nano
    assert rung["low"] < rung["gain"] < rung["high"]


def test_a_wanted_quality_ends_the_ladder(database: Database) -> None:
    options = {"mode": "target_quality", "target_quality": 0.5}
    preview = preview_of(database, previewed_batch(database, 60, SETTINGS, options=options))
    everything = preview_of(database, previewed_batch(database, 60, SETTINGS))
    top = preview["ladder"][-1]
    assert top["gain"] == pytest.approx(everything["ladder"][-1]["gain"] / 2, rel=0.1)
    assert len(preview["ladder"]) > 5


def test_a_single_candidate_has_a_plan_without_a_choice(database: Database) -> None:
    settings = make_settings(routing={"candidates": ["weak"]})
    preview = preview_of(database, previewed_batch(database, 10, settings, candidates=["weak"]))
    [rung] = preview["ladder"]
    assert (rung["share"], rung["gain"], rung["low"], rung["high"]) == ({"weak": 1.0}, 0, 0, 0)


def test_a_preview_stands_still_and_nothing_looks_at_it(database: Database) -> None:
    batch_id = previewed_batch(database, 10, SETTINGS, budget_nano=10**9)
    with database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 day'"))
        session.execute(text("update score_ranges set announced_at = now() - interval '1 day'"))
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert publisher.events == []
    assert runnable_batches(database) == []
    assert not plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    assert not replan(database, SETTINGS, price_book(SETTINGS), batch_id)
    batch = batch_of(database, batch_id)
    assert (batch.state, batch.paused) == (BatchState.IN_PROGRESS, "approval")
    with database.transaction() as session:
        assert session.execute(text("select count(*) from attempts")).scalar_one() == 0
        assert session.execute(text("select count(*) from cost_by_batch")).scalar_one() == 0
        money = session.scalars(select(Budget)).one()
        assert (money.reserved_nano, money.settled_nano) == (0, 0)


def test_a_preview_that_nobody_approves_expires_by_its_window(database: Database) -> None:
    batch_id = previewed_batch(database, 10, SETTINGS)
    with database.transaction() as session:
        session.execute(
            text("update batches set expires_at = now() - interval '1 s', announced_at = now() - interval '1 h'")
        )
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert FinishDue(batch_id) in publisher.events
    assert finish(database, batch_id)
    batch = batch_of(database, batch_id)
    assert (batch.state, batch.failed) == (BatchState.EXPIRED, 10)


def test_a_preview_can_be_cancelled(database: Database) -> None:
    batch_id = previewed_batch(database, 10, SETTINGS)
    cancel(database, FakePublisher(), batch_of(database, batch_id).api_key_id, batch_id)
    assert finish(database, batch_id)
    assert batch_of(database, batch_id).state is BatchState.CANCELLED


def test_a_preview_that_is_cancelled_while_it_is_planned_stays_so(database: Database) -> None:
    batch_id = previewed_batch(database, 10, SETTINGS)
    with database.transaction() as session:
        batch = session.get_one(Batch, batch_id)
        batch.preview, batch.planned_at, batch.paused = {}, None, None
        batch.state, batch.cancelling_at = BatchState.CANCELLING, batch.created_at
    assert not plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    assert batch_of(database, batch_id).preview == {}
