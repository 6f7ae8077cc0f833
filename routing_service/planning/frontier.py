"""PURE: what a batch costs and is worth at a ladder of budgets, before anything is spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.planning.allocation import Ranking
from routing_service.planning.hull import Floats

RUNGS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the span from all-weak to all-strong
LEVEL = 1.645  # standard deviations on either side hold 90 %
CORRELATION = 0.1  # of the errors of a router's gains on the prompts of one batch
OUTCOME_VARIANCE = 0.35  # of one answer's gain around the expected one


@dataclass(frozen=True, slots=True)
class Rung:
    """A plan at one budget. Money in nano-dollars. `gain` is the mean over all requests of the answer's quality minus
    the cheapest model's, in [-1, 1]; `low` and `high` are its 90 % interval; `gap` is what a plan with a request split
    between two models would gain more, at most; `share`, by model, sums to 1."""

    budget: int
    cost: int
    gain: float
    low: float
    high: float
    gap: float
    recovered: float  # of the gain that the dearest rung buys
    share: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def frontier(ranking: Ranking, std: npt.NDArray[np.floating], budgets: list[int] | None = None) -> list[Rung]:
    """The plans at these budgets, or at a ladder from the cheapest plan there is to the one that buys all the gain.

    `std`: of the gain of each model over the cheapest, shape (n, m). The interval's two parts: what the router may be
    wrong by, with errors correlated by a tenth (measured on held-out halves of MMLU, GSM8K and AlpacaEval: nine
    intervals in ten hold), and that each answer turns out as it will.
    """
    free = ranking.within(0).expected_cost
    most = ranking.base + int(ranking.spent[-1])
    ladder = budgets if budgets is not None else [round(free + rung * (most - free)) for rung in RUNGS]
    return [_rung(ranking, std, budget) for budget in ladder]


def _rung(ranking: Ranking, std: npt.NDArray[np.floating], budget: int) -> Rung:
    plan = ranking.within(budget)
    n, m = ranking.step.shape
    count = max(n, 1)
    spread: Floats = std[np.arange(n), plan.model].astype(np.float64)
    upgraded = int((plan.model > 0).sum())
    router = CORRELATION * spread.sum() ** 2 + (1 - CORRELATION) * np.square(spread).sum()
    error = LEVEL * float(np.sqrt(router + OUTCOME_VARIANCE * upgraded)) / count
    gain = plan.expected_gain / count
    whole = float(ranking.gained[-1])
    shares = np.bincount(plan.model, minlength=m) / count
    return Rung(
        budget,
        plan.expected_cost,
        gain,
        max(-1.0, gain - error),
        min(1.0, gain + error),
        plan.gap / count,
        plan.expected_gain / whole if whole > 0 else 0.0,
        tuple(float(share) for share in shares),
    )
