"""Models into tiers, as RouteLLM takes them; and labels for one pair from the battles of many models.

Models are rated by Bradley-Terry from all comparisons and clustered in ten tiers of least variance. For labels those of
the two highest tiers are strong, those of the third are weak, and what is learned from are the battles of a strong
model with a weak one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.routers.bradley_terry.rated_models import RatedModels
from routing_service.routers.bradley_terry.strengths import is_regular, solve, steadied, total_wins
from training.data.comparisons import ROLES, Comparisons
from training.data.labels import DataError
from training.fit.rated import usable

__all__ = ["TIERS", "TierLabels", "by_tier", "rate", "tiers_of"]

Vector = npt.NDArray[np.float64]

TIERS = 10


def rate(comparisons: Comparisons, count: int = TIERS) -> RatedModels:
    """Ratings and at most `count` tiers of the models; the comparisons are what `training.fit.rated.usable` gives.

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


STRONG_TIERS = 2  # the highest ones; the next is weak


@dataclass(frozen=True, slots=True)
class TierLabels:
    """`comparisons` are of the pair (strong, weak). Of `rows` of different models all others are left out."""

    comparisons: Comparisons
    strong: list[str]
    weak: list[str]
    rows: int

    def as_dict(self) -> dict[str, Any]:
        used = len(self.comparisons)
        return {"strong": self.strong, "weak": self.weak, "used": used, "other_tiers": self.rows - used}


def by_tier(comparisons: Comparisons, tiers: int = TIERS) -> TierLabels:
    """The battles between the strong and the weak tier, their models renamed to `strong` and `weak`.

    With fewer models than `tiers` each is a tier of its own. DataError for fewer than three models, or where no strong
    one met a weak one.
    """
    kept = usable(comparisons)
    if len(kept.models) < STRONG_TIERS + 1:
        raise DataError(f"labels by tier need the battles of {STRONG_TIERS + 1} models or more: there are 2")
    tier = np.array(rate(replace(kept, pair=None), tiers).tiers)
    lowest_strong = tier.max() - STRONG_TIERS + 1
    strong, weak = tier >= lowest_strong, tier == lowest_strong - 1
    along = strong[kept.model_a] & weak[kept.model_b]
    against = weak[kept.model_a] & strong[kept.model_b]
    rows = np.flatnonzero(along | against)
    names = [[name for name, its in zip(kept.models, side.tolist(), strict=True) if its] for side in (strong, weak)]
    if not len(rows):
        raise DataError(f"no battle is between the strong models ({_some(names[0])}) and the weak ({_some(names[1])})")
    turned = against[rows].astype(np.int32)
    battles = kept.take(rows)
    pair = replace(battles, models=list(ROLES), model_a=turned, model_b=1 - turned, pair=ROLES, rating=None)
    return TierLabels(pair, names[0], names[1], len(kept))


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
