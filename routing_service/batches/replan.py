"""Re-plan: as answers come in, what is left of a batch is cut again by what answers really cost.

The expected costs of the first plan rest on a prior of output lengths. Each model's error so far (settled over
expected cost of its finished requests, shrunk towards 1 while they are few) corrects the costs of the rest; the ranking
stays, only its cut moves. Upgrades while money allows, downgrades before it runs out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.batches.plan import largest_worst_case, scored_table, still_in_progress
from routing_service.db import Database, try_lock
from routing_service.models import Batch, BatchState
from routing_service.planning import cut
from routing_service.settings import Settings

PRIOR_REQUESTS = 5  # of so many finished requests the prior weighs as much as what was seen


def replan(database: Database, settings: Settings, batch_id: str) -> bool:
    """Move the cut of a planned batch of mode `plan`. False where there is nothing to move."""
    with database.transaction() as session:
        if not try_lock(session, f"plan:{batch_id}"):
            return False
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.IN_PROGRESS or batch.planned_at is None:
            return False
        if batch.options.get("mode", "plan") != "plan" or len(batch.candidates) != 2:
            return False
        table = scored_table(session, batch, list(settings.models))
        if not len(table) or not still_in_progress(session, batch):
            return False
        factors = _factors(session, batch)
        made = _cut(table, _available(session, batch, factors), factors, batch, settings)
        batch.shadow_price, batch.cut_line = made
        return True


def take_due(session: Session, batch_ids: Sequence[str]) -> list[str]:
    """Of the batches, those whose finished requests make a new cut worthwhile: once for each 5 % of a batch."""
    query = text(
        "update batches set replan_at = succeeded + failed + greatest(16, total / 20) where id = any(:ids)"
        " and state = 'in_progress' and coalesce(options ->> 'mode', 'plan') = 'plan' and cardinality(candidates) = 2"
        " and replan_at <= succeeded + failed and succeeded > 0 and succeeded + failed < total returning id"
    )
    return list(session.scalars(query, {"ids": list(batch_ids)}))


def _factors(session: Session, batch: Batch) -> dict[str, float]:
    """By candidate: what its finished requests cost over what they were expected to."""
    rows = session.execute(
        text(
            "select model, count(*), sum(cost_nano), sum(expected_cost_nano[array_position(cast(:models as text[]),"
            " model)]) from requests where batch_id = :id and state = 'succeeded' and model = any(:models)"
            " group by model"
        ),
        {"id": batch.id, "models": batch.candidates},
    )
    factors = dict.fromkeys(batch.candidates, 1.0)
    for model, count, settled, expected in rows:
        prior = float(expected) / count * PRIOR_REQUESTS
        if expected:
            factors[model] = (float(settled) + prior) / (float(expected) + prior)
    return factors


def _available(session: Session, batch: Batch, factors: dict[str, float]) -> int:
    """The budget less what is settled and what the calls in flight will probably cost."""
    free = session.scalar(text("select limit_nano - settled_nano from budgets where batch_id = :id"), {"id": batch.id})
    flying = session.execute(
        text(
            "select model, sum(expected_cost_nano[array_position(cast(:models as text[]), model)]) from requests"
            " where batch_id = :id and state = 'dispatching' and model = any(:models) group by model"
        ),
        {"id": batch.id, "models": batch.candidates},
    )
    return int(free or 0) - int(sum(float(expected) * factors[model] for model, expected in flying))


def _cut(table: Any, available: int, factors: dict[str, float], batch: Batch, settings: Settings) -> tuple[float, int]:
    def column(name: str, kind: Any = np.int64) -> Any:
        return table[name]["value"].astype(kind)

    strong = batch.candidates[-1]
    pinned, base = column("pinned", np.bool_), column("base")
    keys = np.array([factors.get(key, 1.0) for key in ("", *settings.models)])
    corrected = (base * keys[column("model")]).astype(np.int64)
    upgraded = ((base + column("extra")) * factors[strong]).astype(np.int64)
    extra = np.where(pinned, 0, np.maximum(0, upgraded - corrected))
    gain = np.where(pinned, 0.0, column("gain", np.float64))
    sizes = [column(name) for name in ("input_bytes", "output_cap", "choices")]
    margin = largest_worst_case(column("model"), sizes, settings)
    made = cut(column("ratio", np.float64), gain, corrected, extra, column("line"), available - margin)
    return made.shadow_price, made.cut_line
