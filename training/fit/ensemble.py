"""Fitting an ensemble: each member by its own method and defaults, then a calibrated mean of their win rates.

Members differ in how far their win rates spread, and in a mean of equal weights the one that spreads most decides.
So by default a member's weight is the inverse of its spread on held-out prompts. Stacking fits the weights there:
non-negative coefficients of the members' log-odds in a logistic regression, drawn to those of equal spread by a prior
that some hundred prompts outweigh.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from routing_service.routers.calibration import EDGE
from routing_service.routers.ensemble import MAX_MEMBERS, EnsembleRouter, Member, Packed
from routing_service.routers.registry import canonical
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.calibration import calibrated, hold_out
from training.fit.methods import METHODS, method
from training.progress import Progress, silent

Vector = npt.NDArray[np.float64]

ANY_PAIR = True  # as far as the members are
LEAST_WEIGHED = 20  # held-out comparisons, to see a spread by
LEAST_SPREAD = 0.1  # of the largest; a member that hardly tells one prompt from another is not blown up further
STACKING_PRIOR = 10.0
WEIGHTS = ("spread", "equal", "stacked")
SWEEPS = 500
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class EnsembleOptions:
    """`methods` are names with commas between; each is fitted `seeds` times, with seeds that follow one another."""

    methods: str = "gain,similarity_weighted"
    seeds: int = 1
    weights: str = "spread"  # or equal, or stacked
    calibration_share: float = 0.2  # of the prompts, held out to weight and calibrate on; 0 for neither

    def __post_init__(self) -> None:
        names = self.names()
        known = [name for name in METHODS if name != EnsembleRouter.name]
        for name in names:
            if name == EnsembleRouter.name:
                raise DataError("an ensemble cannot be a member of an ensemble")
            if name not in known:
                raise DataError(f"methods: {name[:80]!r} is none of {', '.join(known)}")
        if len(set(names)) < len(names):
            raise DataError("methods names one twice: seeds=2 fits each of them twice")
        if self.seeds < 1 or not 2 <= len(names) * self.seeds <= MAX_MEMBERS:
            raise DataError(f"methods and seeds must make 2 to {MAX_MEMBERS} members")
        if not 0 <= self.calibration_share <= 0.5:
            raise DataError("calibration_share must be 0 to 0.5")
        if self.weights not in WEIGHTS:
            raise DataError(f"weights: {self.weights[:80]!r} is none of {', '.join(WEIGHTS)}")

    def names(self) -> list[str]:
        return [canonical(name.strip()) for name in self.methods.split(",") if name.strip()]


def fit(
    comparisons: Comparisons, *, seed: int, options: EnsembleOptions, settings: Settings, progress: Progress = silent
) -> EnsembleRouter:
    """Fit the members on all comparisons. With held-out prompts to weigh and calibrate on they are fitted twice, the
    first time without those. Without a pair of models, or with too few held-out comparisons of it, the weights are
    equal (below 20) and the mean is not calibrated (below 100).

    DataError where the comparisons will not do for a member.
    """
    held, kept = hold_out(comparisons, options.calibration_share, seed)
    rows, outcome = held.of_pair()
    if len(rows) < LEAST_WEIGHED or len(kept.of_pair()[0]) < LEAST_WEIGHED:
        rows, outcome = rows[:0], outcome[:0]
    rates = np.empty((0, len(options.names()) * options.seeds))
    if len(rows):
        rates = _held_out_rates(_members(kept, seed, options, settings, progress), held, rows)
    weight = held.weight[rows]
    weights = _weights(options.weights, rates, outcome, weight)
    calibration, measured = calibrated(rates @ weights, outcome, weight, seed=seed)
    routers = _members(comparisons, seed, options, settings, progress)
    sources = dict(Counter(comparisons.source))
    metadata: dict[str, Any] = {
        "seed": seed,
        "options": asdict(options),
        "pair": list(comparisons.pair) if comparisons.pair else None,
        "data": {"fingerprint": comparisons.fingerprint(), "rows": len(comparisons), "sources": sources},
        "metrics": {"calibration": measured},
    }
    members = [Member(router, share) for router, share in zip(routers, weights.tolist(), strict=True)]
    return EnsembleRouter(members, calibration, metadata)


def _members(
    comparisons: Comparisons, seed: int, options: EnsembleOptions, settings: Settings, progress: Progress
) -> list[Packed]:
    fitted = []
    for name in options.names():
        chosen = method(name)
        for number in range(options.seeds):
            router = chosen.fit(
                comparisons, seed=seed + number, options=chosen.options(), settings=settings, progress=progress
            )
            fitted.append(cast(Packed, router))
    return fitted


def _held_out_rates(routers: list[Packed], held: Comparisons, rows: npt.NDArray[np.intp]) -> Vector:
    """Win rates of the pair, shape (rows, routers); a prompt with many comparisons is scored once."""
    strong, weak = held.pair or ("", "")
    numbers, place = np.unique(held.prompt[rows], return_inverse=True)
    prompts = [held.prompts[number] for number in numbers.tolist()]
    rates = [router.win_rates(prompts, strong, weak) for router in routers]
    return np.array(rates, np.float64)[:, place.reshape(-1)].T


def _weights(kind: str, rates: Vector, outcome: Vector, weight: Vector) -> Vector:
    """Of sum 1; equal ones where nothing was held out."""
    if kind == "equal" or not len(rates):
        return np.full(rates.shape[1], 1 / rates.shape[1])
    if kind == "stacked":
        return stacked(rates, outcome, weight)
    return _of_sum_one(1 / _spread(rates))


def _of_sum_one(values: Vector) -> Vector:
    weights: Vector = values / values.sum()
    return weights


def _spread(values: Vector) -> Vector:
    """The standard deviation of each column, none below a tenth of the largest; ones where nothing varies."""
    spread = values.std(0)
    return np.maximum(spread, LEAST_SPREAD * spread.max()) if spread.max() > 0 else np.ones(len(spread))


def stacked(rates: Vector, outcome: Vector, weight: Vector) -> Vector:
    """Weights of the members' win rates, of shape (n, members): at least 0, of sum 1.

    Coordinate descent on the penalised cross-entropy, each step by a bound of the curvature: it always falls.
    """
    clipped = np.clip(rates, EDGE, 1 - EDGE)
    odds = np.log(clipped) - np.log1p(-clipped)
    spread = _spread(odds)
    columns = np.c_[odds / spread * spread.mean(), np.ones(len(rates))]
    share = weight / weight.mean()
    prior = np.r_[np.full(rates.shape[1], 1 / rates.shape[1]), 0]
    weights = prior.copy()
    penalty = np.r_[np.full(rates.shape[1], STACKING_PRIOR), 1e-3]
    curvature = share @ np.square(columns) / 4 + penalty
    for _ in range(SWEEPS):
        before = weights.copy()
        for number, column in enumerate(columns.T):
            rate = np.exp(-np.logaddexp(0, -(columns @ weights)))
            slope = (share * (rate - outcome)) @ column + penalty[number] * (weights[number] - prior[number])
            weights[number] -= slope / curvature[number]
            if number < rates.shape[1]:
                weights[number] = max(weights[number], 0)
        if np.abs(weights - before).max() < TOLERANCE:
            break
    if not weights[:-1].any():
        weights = prior
    return _of_sum_one(weights[:-1] / spread)
