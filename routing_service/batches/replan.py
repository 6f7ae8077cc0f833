"""Re-plan: as answers come in, what is left of a batch is cut again by what answers really cost.

The expected costs of the first plan rest on a prior of output lengths. Each model's error so far (settled over
expected cost of its finished requests, shrunk towards 1 while they are few) corrects the costs of the rest; the ranking
stays, only its cut moves. Upgrades while money allows, downgrades before it runs out. The batch's expected cost and
gain become those of the whole batch under the new cut: settled, in flight, and what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.batches.plan import batch_damping, cut, still_in_progress
from routing_service.batches.ranking import BY_COST
from routing_service.batches.scored import Scored, read_scored
from routing_service.db import Database, try_lock
from routing_service.models import Batch, BatchState
from routing_service.settings import Settings

PRIOR_REQUESTS = 5  # of so many finished requests the prior weighs as much as what was seen


def replan(database: Database, settings: Settings, batch_id: str) -> bool:
    """Move the cut of a planned batch whose mode depends on money. False where there is nothing to move.

    Of mode `target_quality` the rest alone is to reach the target; it is cut anew when its budget is topped up.
    """
    with database.transaction() as session:
        if not try_lock(session, f"plan:{batch_id}"):
            return False
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.IN_PROGRESS or batch.planned_at is None:
            return False
        mode = batch.options.get("mode", "plan")
        if mode not in BY_COST or len(batch.candidates) < 2:
            return False
        table = read_scored(session, batch, settings)
        if not len(table) or not still_in_progress(session, batch):
            return False
        sent = _sent(session, batch)
        spent = _spent(session, batch, sent)
        step = table.steps(batch.candidates, mode, batch_damping(batch), settings)
        corrected = _corrected(table, sent.factors, batch, settings)
        made = cut(corrected, step, spent.available_nano, batch, settings)
        batch.shadow_price, batch.cut_line = made.shadow_price, made.cut_line
        batch.expected_cost_nano = spent.nano + made.expected_cost
        batch.expected_gain = sent.gain + made.expected_gain
        return True


def take_due(session: Session, batch_ids: Sequence[str]) -> list[str]:
    """Of the batches, those whose finished requests make a new cut worthwhile: once for each 5 % of a batch."""
    query = text(
        "update batches set replan_at = succeeded + failed + greatest(16, total / 20) where id = any(:ids)"
        " and state = 'in_progress' and coalesce(options ->> 'mode', 'plan') = 'plan' and cardinality(candidates) > 1"
        " and replan_at <= succeeded + failed and succeeded > 0 and succeeded + failed < total returning id"
    )
    return list(session.scalars(query, {"ids": list(batch_ids)}))


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is known of a batch's requests that were answered or are in flight.

    `factors`: by candidate, what its answers cost over what they were expected to. `flying_nano`: what the calls in
    flight will probably cost, by that. `gain`: what their being sent where they were sent is expected to gain.
    """

    factors: dict[str, float]
    flying_nano: int
    gain: float


_SENT = text(
    "select state::text, model, count(*) as requests, sum(cost_nano) as settled,"
    " sum(coalesce(expected_cost_nano[array_position(cast(:models as text[]), model)], floor_nano)) as expected,"
    " sum(2 * (quality[array_position(cast(:models as text[]), model)] - quality[1])::float8)"
    " filter (where pinned is null) as gain"
    " from requests where batch_id = :id and state in ('succeeded', 'dispatching') group by state, model"
)


def _sent(session: Session, batch: Batch) -> _Sent:
    rows = session.execute(_SENT, {"id": batch.id, "models": batch.candidates}).all()
    factors = dict.fromkeys(batch.candidates, 1.0)
    for row in rows:
        if row.state == "succeeded" and row.model in factors and row.expected:
            prior = float(row.expected) / row.requests * PRIOR_REQUESTS
            factors[row.model] = (float(row.settled) + prior) / (float(row.expected) + prior)
    flying = sum(float(row.expected) * factors.get(row.model, 1.0) for row in rows if row.state == "dispatching")
    return _Sent(factors, int(flying), sum(row.gain or 0.0 for row in rows))


@dataclass(frozen=True, slots=True)
class _Spent:
    """Of a batch's budget: what is settled or will probably be for the calls in flight, and the rest of it."""

    nano: int
    available_nano: int


def _spent(session: Session, batch: Batch, sent: _Sent) -> _Spent:
    query = text("select limit_nano, settled_nano from budgets where batch_id = :id")
    limit, settled = session.execute(query, {"id": batch.id}).one()
    spent = settled + sent.flying_nano
    return _Spent(spent, limit - spent)


def _corrected(table: Scored, factors: dict[str, float], batch: Batch, settings: Settings) -> Scored:
    """The same requests with costs as answers have shown them; what is pinned by the factor of its own model."""
    by_model = np.array([factors.get(key, 1.0) for key in ("", *settings.models)])
    by_candidate = np.array([factors[key] for key in batch.candidates])
    factor = np.where(table.pinned[:, None], by_model[table.model][:, None], by_candidate)
    return replace(table, cost=(table.cost * factor).astype(np.int64))
