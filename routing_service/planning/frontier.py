"""PURE: what a batch costs and is worth at a ladder of budgets, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from routing_service.planning.allocation import Plan, Ranking
from routing_service.planning.hull import Floats, Ints

RUNGS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the span from all-weak to all-strong
LEVEL = float(ndtri(0.95))  # standard deviations on either side hold 90 %
CORRELATION = 0.1  # of the errors of a router's gains on the prompts of one batch
OUTCOME_VARIANCE = 0.35  # of one answer's gain around the expected one


@dataclass(frozen=True, slots=True)
class Rung:
    """A plan at one budget. Money in nano-dollars. `gain` is the mean over all requests of the answer's quality minus
    the cheapest model's, in [-1, 1]; `low` and `high` are its 90 % interval; `gap` is what a plan with a request split
    between two models would gain more, at most; `share`, by model, sums to 1. Shadow price and cut line: the plan's."""

    budget: int
    cost: int
    gain: float
    low: float
    high: float
    gap: float
    recovered: float  # of the gain that the dearest rung buys
    share: tuple[float, ...]
    shadow_price: float
    cut_line: int


def frontier(
    ranking: Ranking,
    std: npt.NDArray[np.floating],
    budgets: list[int] | None = None,
    cut: Callable[[int], Plan] | None = None,
    served: Ints | None = None,
) -> list[Rung]:
    """The plans at these budgets, or at those of `ladder`.

    `std`: of the gain of each model over the cheapest, shape (n, m). `cut`: the plan at a budget, of a mode that has
    another rule than `Ranking.within`. `served`: how many equal requests each answer serves, shape (n,), with which the
    ranking's qualities are multiplied already; None: one each. The interval's two parts: what the router may be wrong
    by, with errors correlated by a tenth (measured on held-out halves of MMLU, GSM8K and AlpacaEval: nine intervals in
    ten hold), and that each answer turns out as it will.
    """
    weight = np.ones(len(ranking.line), np.int64) if served is None else served
    at = cut or ranking.within
    wanted = ladder(ranking, cut) if budgets is None else budgets
    return [_rung(ranking, std, weight, budget, at(budget)) for budget in wanted]


def ladder(ranking: Ranking, cut: Callable[[int], Plan] | None = None) -> list[int]:
    """Budgets from what the cheapest model costs to the least that buys all that can be bought."""
    least = ranking.base
    all_of_it = least + int(np.abs(ranking.ranked.extra).sum())
    most = max(least, (cut or ranking.within)(all_of_it).expected_cost)
    return [round(least + part * (most - least)) for part in RUNGS]


def _rung(ranking: Ranking, std: npt.NDArray[np.floating], weight: Ints, budget: int, plan: Plan) -> Rung:
    n, m = ranking.step.shape
    count = max(int(weight.sum()), 1)
    spread: Floats = std[np.arange(n), plan.model].astype(np.float64) * weight
    router = CORRELATION * spread.sum() ** 2 + (1 - CORRELATION) * np.square(spread).sum()
    outcome = OUTCOME_VARIANCE * float(np.square(weight[plan.model > 0]).sum())
    error = LEVEL * float(np.sqrt(router + outcome)) / count
    gain = plan.expected_gain / count
    whole = float(ranking.gained[-1])
    shares = np.bincount(plan.model, weight, m) / count
    return Rung(
        budget,
        plan.expected_cost,
        gain,
        max(-1.0, gain - error),
        min(1.0, gain + error),
        plan.gap / count,
        plan.expected_gain / whole if whole > 0 else 0.0,
        tuple(float(share) for share in shares),
        plan.shadow_price,
        plan.cut_line,
    )
