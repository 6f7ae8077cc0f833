"""Models into tiers: Bradley-Terry ratings from all comparisons, clustered by least variance within the clusters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from routing_service.routers.bradley_terry.rated_models import RatedModels
from routing_service.routers.bradley_terry.strengths import is_regular, solve, steadied, total_wins
from training.comparisons import Comparisons

Vector = npt.NDArray[np.float64]

TIERS = 10

__all__ = ["TIERS", "rate", "tiers_of"]


def rate(comparisons: Comparisons, count: int = TIERS) -> RatedModels:
    """Ratings and at most `count` tiers of the models; the comparisons are what `training.rated.usable` gives.

    Where they leave a rating open (a model that never won, models that never met), every model gets one tie with the
    average of all.
    """
    first, second = comparisons.model_a, comparisons.model_b
    wins = total_wins(first, second, comparisons.outcome, comparisons.weight, len(comparisons.models))
    ratings = solve(wins if is_regular(wins) else steadied(wins, 1.0))
    ratings = ratings - ratings.mean()
    pair = comparisons.pair if comparisons.pair and set(comparisons.pair) <= set(comparisons.models) else None
    tiers = tiers_of(ratings, count)
    return RatedModels(tuple(comparisons.models), tuple(tiers.tolist()), tuple(ratings.tolist()), pair)


def tiers_of(ratings: Vector, count: int) -> npt.NDArray[np.int64]:
    """The tier of every model, 0 for the weakest: min(count, models) runs of ratings, of least summed variance.

    By dynamic programming, in O(count * models^2). As RouteLLM's `compute_tiers`, which numbers from the strongest: the
    variances are summed without regard to how many models a tier has, and of equally good cuts the one that leaves the
    fewest models above it is taken.
    """
    n, count = len(ratings), min(count, len(ratings))
    order = np.argsort(-ratings, kind="stable")
    variance = _variances(ratings[order])
    cost = variance[0]  # of the first j + 1 models in one tier
    cuts = np.zeros((count, n), np.int64)
    for tier in range(1, count):
        # total[l, j]: the first l + 1 models in `tier` tiers, l + 1 to j in one more
        total = np.full((n, n), np.inf)
        total[:-1] = cost[:-1, None] + variance[1:]
        cuts[tier] = np.argmin(total, axis=0)
        cost = np.minimum.reduce(total, axis=0)
    ends = [n - 1]
    for tier in range(count - 1, 0, -1):
        ends.append(int(cuts[tier, ends[-1]]))
    run = np.searchsorted(ends[::-1], np.arange(n))
    tiers = np.empty(n, np.int64)
    tiers[order] = count - 1 - run
    return tiers


def _variances(values: Vector) -> Vector:
    """Of values[i : j + 1] at [i, j], infinite below the diagonal."""
    n = len(values)
    table = np.full((n, n), np.inf)
    for i in range(n):
        size = np.arange(1, n - i + 1)
        offset = values[i:] - values[i]  # from the run's own first value: sums of squares stay small
        mean = np.cumsum(offset) / size
        table[i, i:] = np.maximum(np.cumsum(np.square(offset)) / size - np.square(mean), 0)
    return table
