"""Calibration of a router's win rates on held-out comparisons: fitted only where it is shown to lower the error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.routers.calibration import EDGE, Calibration
from training.comparisons import Comparisons
from training.data import DataError

Vector = npt.NDArray[np.float64]

HOLD_OUT_SEED = 1_000_003
LEAST_HELD_OUT = 100  # comparisons, to calibrate on
SCALE = (0.1, 5.0)  # calibration never turns a ranking around
PRIOR = 1.0  # of scale and offset, around 1 and 0: keeps one-sided data finite, and counts as about one comparison
NEWTON_STEPS = 50
BINS = 10

__all__ = ["LEAST_HELD_OUT", "calibrated", "hold_out"]


def hold_out(comparisons: Comparisons, share: float, seed: int) -> tuple[Comparisons, Comparisons]:
    """About `share` of the prompts with all their comparisons, and the rest, which a fit may use."""
    # Not the seed itself: comparisons that a caller split off with it would all fall on one side again.
    return comparisons.split(share, seed + HOLD_OUT_SEED)


def calibrated(rates: Vector, outcome: Vector, weight: Vector, *, seed: int) -> tuple[Calibration, dict[str, Any]]:
    """The calibration that held-out comparisons of a pair support, and what was measured, as JSON.

    `rates`, `outcome`, `weight`, all of shape (n,): raw win rates of the model named first, the pair's stronger one, on
    prompts that the fit has not seen; how they came out; what each counts for.

    A logistic line through the log-odds of one half is judged on the other half, both ways. It is applied where the
    mean squared error falls by more than the standard error of its fall: less is noise. With fewer than 100
    comparisons there is no line, and `std` is unknown. DataError for win rates that are no numbers.
    """
    rates, outcome, weight = (np.asarray(values, float) for values in (rates, outcome, weight))
    if not (np.isfinite(rates).all() and np.isfinite(outcome).all() and (np.isfinite(weight) & (weight > 0)).all()):
        raise DataError("the fit failed: its win rates on held-out prompts are not all finite")
    calibration = Calibration()
    measured: dict[str, Any] = {"error_before": None, "error_after": None, "standard_error": None}
    applied = False
    if len(rates) >= LEAST_HELD_OUT:
        share = weight / weight.sum()
        crossed = _crossed(rates, outcome, weight, seed)
        before, after = np.square(rates - outcome), np.square(crossed - outcome)
        fall = float(share @ (before - after))
        noise = float(np.sqrt(np.square(share) @ np.square(before - after - fall)))
        measured = {"error_before": float(share @ before), "error_after": float(share @ after), "standard_error": noise}
        applied = fall > noise
        std = _off_by(crossed if applied else rates, outcome, weight, seed=seed)
        calibration = replace(_line(rates, outcome, weight) if applied else calibration, std=std)
    return calibration, {"applied": applied, "held_out": len(rates), **measured, **calibration.as_dict()}


def _off_by(rates: Vector, outcome: Vector, weight: Vector, *, seed: int) -> float:
    """What win rates are off by: the root of the mean squared distance of rate and outcome over ten bins of as many
    comparisons, less what chance alone would put there.
    """
    # Equal rates stand in a random order: that of the file may go with the outcome.
    order = np.lexsort((np.random.default_rng(seed).random(len(rates)), rates))
    total = 0.0
    for rows in np.array_split(order, min(BINS, len(rates) // 2)):
        share = weight[rows] / weight[rows].sum()
        distance = rates[rows] - outcome[rows]
        mean = float(share @ distance)
        chance = np.square(share) @ np.square(distance - mean) * len(rows) / (len(rows) - 1)
        total += float(weight[rows].sum()) * (mean**2 - chance)
    return float(np.sqrt(max(total / weight.sum(), 0)))


def _crossed(rates: Vector, outcome: Vector, weight: Vector, seed: int) -> Vector:
    """Each half calibrated by the line through the other half."""
    first = np.random.default_rng(seed).permutation(len(rates)) < len(rates) // 2
    crossed = np.empty_like(rates)
    for half in (first, ~first):
        crossed[~half] = _line(rates[half], outcome[half], weight[half]).apply(rates[~half])
    return crossed


def _line(rates: Vector, outcome: Vector, weight: Vector) -> Calibration:
    """Logistic regression of the outcome on the log-odds. A weight is relative to the others'."""
    clipped = np.clip(rates, EDGE, 1 - EDGE)
    columns = np.stack([np.log(clipped) - np.log1p(-clipped), np.ones_like(rates)])
    share = weight / weight.mean()
    found = _newton(columns, outcome, share, np.array([1.0, 0.0]), free=np.array([True, True]))
    scale = float(np.clip(found[0], *SCALE))
    if scale != found[0]:
        found = _newton(columns, outcome, share, np.array([scale, 0.0]), free=np.array([False, True]))
    return Calibration(float(found[0]), float(found[1]))


def _newton(columns: Vector, outcome: Vector, weight: Vector, start: Vector, *, free: npt.NDArray[np.bool_]) -> Vector:
    """The least of the penalised cross-entropy, which is convex, over the free ones of scale and offset."""
    prior = np.array([1.0, 0.0])

    def loss(at: Vector) -> float:
        z = at @ columns
        return float(weight @ (np.logaddexp(0, z) - outcome * z)) + PRIOR / 2 * float(np.square(at - prior).sum())

    at, value = start, loss(start)
    for _ in range(NEWTON_STEPS):
        rate = np.exp(-np.logaddexp(0, -(at @ columns)))
        gradient = columns @ (weight * (rate - outcome)) + PRIOR * (at - prior)
        hessian = (columns * (weight * rate * (1 - rate))) @ columns.T + PRIOR * np.eye(2)
        step = np.zeros(2)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        while (better := loss(at - step)) > value and np.abs(step).max() > 1e-9:
            step /= 2
        if better >= value:
            break
        at, value = at - step, better
    return at
