"""Labels for one pair from the battles of many models: strong and weak are tiers of models, as RouteLLM takes them.

Models are rated by all battles and clustered in ten tiers; those of the two highest tiers are strong, those of the
third are weak, and what is learned from are the battles of a strong with a weak one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from training.comparisons import ROLES, Comparisons
from training.data import DataError
from training.rated import usable
from training.tiers import TIERS, rate

STRONG_TIERS = 2  # the highest ones; the next is weak

__all__ = ["TierLabels", "by_tier"]


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
    found = kept.take(rows)
    pair = replace(found, models=list(ROLES), model_a=turned, model_b=1 - turned, pair=ROLES, rating=None)
    return TierLabels(pair, names[0], names[1], len(kept))


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
