"""Re-plan: as answers come in, what is left of a batch is cut again by what answers really cost.

The expected costs of the first plan rest on predicted output lengths, or on a prior. Each model's error so far (settled
over expected cost of its finished requests, shrunk towards 1 while they are few; of a model that has not answered yet,
the error of the others) corrects the costs of the rest and the floor that is kept for them; the ranking stays, only
its cut moves. Upgrades while money allows, downgrades before it runs out. The batch's expected cost and gain become
those of the whole batch under the new cut: settled, in flight, and what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database, try_lock
from routing_service.models import Batch, BatchState
from routing_service.money.pricing import PriceBook
from routing_service.planning import Floats
from routing_service.plans.holdback import holdback_cutoff, store_holdback
from routing_service.plans.plan import batch_damping, still_in_progress
from routing_service.plans.probing import Probing, ready_to_cut
from routing_service.plans.stored import Scored, cut, read_scored
from routing_service.scoring.ranking import BY_COST
from routing_service.settings import Settings

DRIFT = 0.05  # of a batch's expected cost
LEAST_FACTOR = 1e-3
PRIOR_REQUESTS = 0.25  # worth of the prior: it is off by a factor of e ** 2, an answer from the mean by one of e


def replan(database: Database, settings: Settings, prices: PriceBook, batch_id: str) -> bool:
    """Move the cut of a planned batch whose mode depends on money. False where there is nothing to move.

    Of mode `target_quality` the rest alone is to reach the target; it is cut anew when its budget is topped up.
    """
    with database.transaction() as session:
        if not try_lock(session, f"plan:{batch_id}"):
            return False
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.IN_PROGRESS or batch.planned_at is None or batch.is_preview:
            return False
        mode = batch.options.get("mode", "plan")
        if mode not in BY_COST or len(batch.candidates) < 2:
            return False
        table = read_scored(session, batch, settings)
        if not len(table) or not still_in_progress(session, batch):
            return False
        sent = _sent(session, batch)
        spent = _spent(session, batch, sent)
        step = table.steps(batch.candidates, mode, batch_damping(batch), settings, prices)
        corrected = _corrected(table, sent.factors, batch, settings)
        made = cut(corrected, step, spent.available_nano, batch, settings, prices)
        batch.shadow_price, batch.cut_line = made.shadow_price, made.cut_line
        store_holdback(batch, holdback_cutoff(table, table.ratio, made))
        batch.expected_cost_nano = spent.nano + made.expected_cost
        batch.expected_gain = sent.gain + made.expected_gain
        batch.cost_factors = [sent.factors[model] for model in batch.candidates] if sent.answers else None
        batch.floor_factor = _floor_factor(table, sent, settings)
        if batch.probes and Probing.of(session, batch_id, batch.candidates, batch.probes).over():
            batch.probes = None
        return True


def take_due(session: Session, batch_ids: Sequence[str]) -> list[str]:
    """Of the batches, those that are worth a new cut: once for each 5 % of a batch's requests, and whenever what
    answers cost has drifted from what was expected by 5 % of the whole batch's expected cost; once its probes are in,
    while a batch probes."""
    query = text(
        "update batches set replan_at = succeeded + failed + greatest(16, (total - duplicates) / 20), drift_nano = 0"
        " where id = any(:ids) and state = 'in_progress' and coalesce(options ->> 'mode', 'plan') = 'plan'"
        " and purpose = 'client' and cardinality(candidates) > 1 and probes is null"
        " and succeeded > 0 and succeeded + failed < total"
        " and (replan_at <= succeeded + failed or abs(drift_nano) > :drift * expected_cost_nano) returning id"
    )
    due = list(session.scalars(query, {"ids": list(batch_ids), "drift": DRIFT}))
    return due + ready_to_cut(session, batch_ids)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is known of a batch's requests that were answered or are in flight.

    `factors`: by candidate, what its answers cost over what they were expected to; `answers`: on how many that rests.
    `in_flight_nano`: what the calls in flight will probably cost, by that. `gain`: what their being sent where they
    were sent is expected to gain.
    """

    factors: dict[str, float]
    answers: dict[str, int]
    in_flight_nano: int
    gain: float


_SENT = text(
    "select state::text, model, count(*) filter (where reason is distinct from 'cached') as requests,"
    " sum(cost_nano) as settled,"
    " sum(coalesce(expected_cost_nano[array_position(cast(:models as text[]), model)], floor_nano))"
    " filter (where reason is distinct from 'cached') as expected,"
    " sum(answers * 2 * (quality[array_position(cast(:models as text[]), model)] - quality[1])::float8)"
    " filter (where pinned is null and fallback is null) as gain"
    " from requests where batch_id = :id and state in ('succeeded', 'dispatching') group by state, model"
)


def _sent(session: Session, batch: Batch) -> _Sent:
    rows = session.execute(_SENT, {"id": batch.id, "models": batch.candidates}).all()
    answered = [r for r in rows if r.state == "succeeded" and r.model in batch.candidates and r.requests]
    factors = {row.model: _factor(row) for row in answered if row.expected}  # what is free says nothing
    others = sum(factors.values()) / len(factors) if factors else 1.0
    factors = {model: factors.get(model, others) for model in batch.candidates}
    in_flight = sum(float(row.expected) * factors.get(row.model, 1.0) for row in rows if row.state == "dispatching")
    answers = {row.model: row.requests for row in answered}
    return _Sent(factors, answers, int(in_flight), sum(row.gain or 0.0 for row in rows))


def _factor(row: Any) -> float:
    """Settled over expected cost of a model's answers, its logarithm shrunk towards 0."""
    ratio = max(float(row.settled) / float(row.expected), LEAST_FACTOR)
    return float(ratio ** (row.requests / (row.requests + PRIOR_REQUESTS)))


@dataclass(frozen=True, slots=True)
class _Spent:
    """Of a batch's budget: what is settled or will probably be for the calls in flight, and the rest of it."""

    nano: int
    available_nano: int


def _spent(session: Session, batch: Batch, sent: _Sent) -> _Spent:
    query = text("select limit_nano, settled_nano from budgets where batch_id = :id")
    limit, settled = session.execute(query, {"id": batch.id}).one()
    spent = settled + sent.in_flight_nano
    return _Spent(spent, limit - spent)


def _corrected(table: Scored, factors: dict[str, float], batch: Batch, settings: Settings) -> Scored:
    """The same requests with costs as answers have shown them; what is pinned by the factor of its own model."""
    by_candidate = np.array([factors[key] for key in batch.candidates])
    own = _own_factors(table, factors, settings)
    factor = np.where(table.pinned[:, None], own[:, None], by_candidate)
    return replace(table, cost=(table.cost * factor).astype(np.int64))


def _floor_factor(table: Scored, sent: _Sent, settings: Settings) -> float:
    """What the floor of the rest really costs over what it holds: a standard error above what was seen."""
    careful = {model: f * (1 + 1 / max(1, sent.answers.get(model, 0)) ** 0.5) for model, f in sent.factors.items()}
    held = int(table.floor.sum())
    return float((table.floor * _own_factors(table, careful, settings)).sum() / held) if held else 1.0


def _own_factors(table: Scored, factors: dict[str, float], settings: Settings) -> Floats:
    """Of the model that each request's floor counts, shape (n,)."""
    by_model = np.array([factors.get(key, 1.0) for key in ("", *settings.models)])
    factors_of_rows: Floats = by_model[table.model]
    return factors_of_rows
