"""Batches over three candidates, and plans by the power of costs: what is dispatched is what the plan chose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.claim import claim
from routing_service.models import Request
from routing_service.money.pricing import price_book
from routing_service.planning import Ranking, damping_of, steps
from routing_service.plans.plan import batch_damping, plan
from routing_service.routers.base import Floats
from routing_service.routers.random import RandomRouter
from routing_service.routers.registry import Router
from routing_service.scoring.length_model import LEAST_ROWS
from routing_service.scoring.lengths import fit_lengths
from routing_service.scoring.score import score
from tests.support.factories import STRONG, WEAK, chat_line, ingested_batch, make_settings
from tests.support.reading import batch_of, upgraded
from tests.support.settled import answer

MIDDLE = STRONG | {"input_usd_per_million": 3, "output_usd_per_million": 9}
SETTINGS = make_settings(
    models={"weak": WEAK, "middle": MIDDLE, "strong": STRONG}, routing={"candidates": ["weak", "middle", "strong"]}
)
CANDIDATES = ["weak", "middle", "strong"]
PAIR = make_settings()


class ByLength(RandomRouter):
    """The longer a prompt, the better the dearer models; the middle one gets most of it."""

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        gain = np.array([len(prompt) % 97 / 97 for prompt in prompts])
        part = np.linspace(0, 1, len(models)) ** 0.5
        quality = (0.5 + gain[:, None] / 2 * part).astype(np.float32)
        return quality, np.zeros_like(quality)


class Source:
    def get(self, name: str) -> Router:
        return ByLength()

    def serving(self) -> str:
        return "by_length"


def planned(database: Database, budget_nano: int, **options: object) -> str:
    lines = [chat_line(str(n), "x" * (20 + 37 * n % 900)) for n in range(80)]
    batch_id = ingested_batch(
        database, lines, SETTINGS, budget_nano=budget_nano, candidates=CANDIDATES, options=dict(options)
    )
    score(database, SETTINGS, price_book(SETTINGS), Source(), batch_id, 1)
    assert plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    return batch_id


def rows_of(database: Database, batch_id: str) -> Sequence[Request]:
    with database.transaction() as session:
        return session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)).all()


def claimed(database: Database, batch_id: str) -> dict[int, str]:
    with database.transaction() as session:
        pump_id = session.scalar(
            text("insert into pumps (host, pid, expires_at) values ('h', 1, now() + interval '1 hour') returning id")
        )
        assert pump_id is not None
        result = claim(session, SETTINGS, price_book(SETTINGS), pump_id, batch_id, dict.fromkeys(CANDIDATES, 500))
    return {ticket.line: ticket.model for ticket in result.tickets}


def test_every_claimed_request_goes_to_the_model_that_the_plan_chose(database: Database) -> None:
    batch_id = planned(database, 200_000_000)
    batch, rows = batch_of(database, batch_id), rows_of(database, batch_id)
    cost = np.array([row.expected_cost_nano for row in rows])
    quality = np.array([row.quality for row in rows], np.float32)
    step = steps(cost, quality, batch_damping(batch))
    ranking = Ranking.of(cost, quality, [row.line for row in rows], step)
    models = ranking.within(int(batch.expected_cost_nano or 0)).model
    with database.transaction() as session:
        session.execute(text("update batches set probes = null, reserve_ratio = null, reserve_line = null"))
    models_by_line = claimed(database, batch_id)
    assert len(models_by_line) > 30
    assert len(set(models_by_line.values())) == 3
    assert models_by_line == {line: CANDIDATES[models[line - 1]] for line in models_by_line}


def test_a_line_that_cannot_afford_the_strong_model_still_gets_the_middle_one(database: Database) -> None:
    lines = [chat_line("a", "x" * 96, routing={"max_cost_usd": 0.01}), chat_line("b", "x" * 96)]
    batch_id = ingested_batch(database, lines, SETTINGS, budget_nano=10**12, candidates=CANDIDATES)
    score(database, SETTINGS, price_book(SETTINGS), Source(), batch_id, 1)
    assert plan(database, SETTINGS, price_book(SETTINGS), batch_id)
    assert claimed(database, batch_id) == {1: "middle", 2: "strong"}


def test_a_wanted_quality_is_bought_at_the_least_cost(database: Database) -> None:
    batch = batch_of(database, planned(database, 10**12, mode="target_quality", target_quality=0.6))
    whole = batch_of(database, planned(database, 10**12, mode="target_quality", target_quality=1))
    assert 0.6 <= (batch.expected_gain or 0) / (whole.expected_gain or 1) < 0.65
    assert (batch.expected_cost_nano or 0) < 0.6 * (whole.expected_cost_nano or 0)


def test_a_wanted_quality_never_costs_more_than_the_budget(database: Database) -> None:
    budget = 330_000_000
    batch = batch_of(database, planned(database, budget, mode="target_quality", target_quality=1))
    assert (batch.expected_cost_nano or 0) <= budget


def scored_pair(database: Database) -> str:
    """Sixty lines of like length between the two models of `PAIR`, scored."""
    lines = [chat_line(str(n), "x" * (100 + 40 * (n % 3))) for n in range(60)]
    batch_id = ingested_batch(database, lines, PAIR, budget_nano=300_000_000)
    score(database, PAIR, price_book(PAIR), Source(), batch_id, 1)
    return batch_id


def test_predicted_costs_that_hardly_differ_are_damped_in_the_stored_ratios(database: Database) -> None:
    for model in PAIR.models:
        answer(database, range(LEAST_ROWS), model, tokens=lambda n: 200 + 20 * (n % 3))
    assert sorted(fit_lengths(database, PAIR)) == ["strong", "weak"]
    batch_id = scored_pair(database)
    plain = [row.ratio for row in rows_of(database, batch_id)]
    assert plan(database, PAIR, price_book(PAIR), batch_id)
    batch, rows = batch_of(database, batch_id), rows_of(database, batch_id)
    cost = np.array([row.expected_cost_nano for row in rows])
    assert batch_damping(batch) == damping_of(cost)
    assert 0 < batch.cost_power < 1
    assert [row.ratio for row in rows] != plain
    chosen = {row.line for row in upgraded(database, batch)}
    assert 0 < len(chosen) < 60
    asked = [row.line in chosen for row in rows]
    assert (batch.expected_cost_nano or 0) == int(np.where(asked, cost[:, 1], cost[:, 0]).sum())


def test_costs_that_differ_only_by_what_is_known_count_in_full(database: Database) -> None:
    """Before any length is learned every answer is expected to take the same: inputs differ, and they are known."""
    batch_id = scored_pair(database)
    plain = [row.ratio for row in rows_of(database, batch_id)]
    assert plan(database, PAIR, price_book(PAIR), batch_id)
    assert batch_damping(batch_of(database, batch_id)) is None
    assert [row.ratio for row in rows_of(database, batch_id)] == plain
