"""Which model a claimed row's plan names, found again from what is stored of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from routing_service.batches.claim_rows import Plan
from routing_service.batches.ranking import BY_COST, Columns, allowed
from routing_service.planning import NEVER, chosen, steps
from routing_service.pricing import PriceBook
from routing_service.settings import Settings


def planned_models(rows: Sequence[Any], plan: Plan, settings: Settings, prices: PriceBook) -> dict[int, str]:
    """By line, the candidate that shadow price and cut line mean; what is pinned is left to the caller."""
    line = np.array([row.line for row in rows], dtype=np.int64)
    m = len(plan.candidates)
    if m > 2 and plan.mode in BY_COST:
        cost = np.array([row.expected_cost_nano for row in rows], dtype=np.int64)
        answers = np.array([row.answers for row in rows], dtype=np.float64)
        quality = np.array([row.quality for row in rows], dtype=np.float32) * answers[:, None]
        may = allowed(Columns.of(rows), plan.candidates, settings, prices)
        step = steps(cost, np.where(may, quality, NEVER), plan.damping)
    else:
        step = np.full((len(rows), m), NEVER)
        step[:, 0] = np.inf
        if m > 1:
            step[:, -1] = [row.ratio for row in rows]
    models = chosen(step, line, plan.shadow_price, plan.cut_line)
    return dict(zip(line.tolist(), (plan.candidates[model] for model in models.tolist()), strict=True))
