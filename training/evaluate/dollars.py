"""What routing costs and saves in dollars: quality at a budget, the cost ratio, a router's own overhead.

`scores`, shape (n,), as in `training.evaluate.metrics`: the higher, the sooner a prompt goes to the strong model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.benchmark_sets import Benchmark
from training.evaluate.metrics import cpt

Floats = npt.NDArray[np.float64]
Prices = tuple[float, float]  # dollars a million tokens, strong and weak

SECONDS_AN_HOUR = 3600
MILLION = 1_000_000


def blended(share: npt.ArrayLike, usd_per_million: Prices) -> Floats:
    """Dollars a million tokens when this share of them goes to the strong model."""
    strong, weak = usd_per_million
    return np.asarray(share, float) * (strong - weak) + weak


def cost_ratio(scores: npt.ArrayLike, gain: npt.ArrayLike, level: float, usd_per_million: Prices) -> float:
    """What a random router costs to recover `level` of the gap, over what this one does (the paper's table 6).

    At random the share recovered is the share sent to strong. If weak costs nothing the ratio is that of strong calls,
    `level / CPT(level)`, which is what the paper prints.
    """
    at_random, ours = blended([level, cpt(scores, gain, level)], usd_per_million)
    return float(at_random / ours)


def dollar_curve(scores: npt.ArrayLike, benchmark: Benchmark) -> tuple[Floats, Floats]:
    """Dollars of all prompts, and mean quality: from all-weak to all-strong, a point for every distinct cut.

    ValueError where the set has no costs. Prompts of one score are one step.
    """
    if benchmark.costs is None:
        raise ValueError(f"the costs of {benchmark.name}'s answers are not known")
    score = np.asarray(scores, float)
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])
    strong, weak = benchmark.costs.T
    dollars = weak.sum() + np.cumsum((strong - weak)[order])[ends]
    quality = benchmark.weak.mean() + np.cumsum(benchmark.gain[order])[ends] / len(score)
    return np.r_[weak.sum(), dollars], np.r_[benchmark.weak.mean(), quality]


def quality_at(curve: tuple[Floats, Floats], dollars: float) -> float | None:
    """The quality that these dollars buy, interpolated in the step at which they run out; None below all-weak.

    Down the ranking until the money is gone: costs may fall in between, where the strong model is the cheaper one.
    """
    cost, quality = curve
    if dollars < cost[0]:
        return None
    above = np.flatnonzero(cost > dollars)
    if not len(above):
        return float(quality[-1])
    step = int(above[0])
    part = (dollars - cost[step - 1]) / (cost[step] - cost[step - 1])
    return float(quality[step - 1] + part * (quality[step] - quality[step - 1]))


@dataclass(frozen=True, slots=True)
class Overhead:
    """How fast a router scores, and what a million requests cost on a machine of that price (the paper's table 7)."""

    requests_per_second: float
    usd_per_hour: float

    @property
    def usd_per_million_requests(self) -> float:
        return self.usd_per_hour / SECONDS_AN_HOUR / self.requests_per_second * MILLION
