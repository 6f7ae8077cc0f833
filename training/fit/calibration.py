"""Calibration of a router's win rates on held-out comparisons: fitted only where it is shown to lower the error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from routing_service.routers.calibration import EDGE, Calibration
from training.data.comparisons import Comparisons
from training.data.labels import DataError

Vector = npt.NDArray[np.float64]

HOLD_OUT_SEED = 1_000_003
LEAST_HELD_OUT = 100  # comparisons, to calibrate on
SCALE = (0.1, 5.0)  # calibration never turns a ranking around
PRIOR = 1.0  # of scale and offset, around 1 and 0: keeps one-sided data finite, and counts as about one comparison
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
    mean squared error falls by more than the standard error of its fall: less is noise. `std` is what win rates are off
    by, as far as these comparisons can tell: their misfit beyond chance, and the doubt that so few leave of the line.
    With fewer than 100 comparisons there is no line, and `std` is unknown. DataError for win rates that are no numbers.
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
        line = _line(rates, outcome, weight)
        misfit = _misfit(crossed if applied else rates, outcome, weight, seed)
        std = np.sqrt(max(misfit, 0.0) + _doubt(line, rates, weight))
        calibration = replace(line if applied else calibration, std=min(float(std), 1.0))
    return calibration, {"applied": applied, "held_out": len(rates), **measured, **calibration.as_dict()}


def _misfit(rates: Vector, outcome: Vector, weight: Vector, seed: int) -> float:
    """The mean square of what win rates are off by: the distance of mean rate and mean outcome over ten bins of as many
    comparisons, less what chance alone would put there. Below 0 where there is less than that.
    """
    # Equal rates stand in a random order: that of the file may go with the outcome.
    order = np.lexsort((np.random.default_rng(seed).random(len(rates)), rates))
    total = 0.0
    for rows in np.array_split(order, BINS):
        share = weight[rows] / weight[rows].sum()
        distance = rates[rows] - outcome[rows]
        mean = float(share @ distance)
        chance = np.square(share) @ np.square(distance - mean) * len(rows) / (len(rows) - 1)
        total += float(weight[rows].sum()) * (mean**2 - chance)
    return total / float(weight.sum())


def _doubt(line: Calibration, rates: Vector, weight: Vector) -> float:
    """The mean variance of win rates that comes of the line's own: so few comparisons leave it open."""
    columns = _columns(rates)
    at = np.array([line.scale, line.offset])
    slope = _slope(at @ columns)
    spread = np.linalg.solve(_curvature(columns, slope, _effective(weight)), columns)
    return float(np.average(np.square(slope) * (columns * spread).sum(0), weights=weight))


def _crossed(rates: Vector, outcome: Vector, weight: Vector, seed: int) -> Vector:
    """Each half calibrated by the line through the other half."""
    first = np.random.default_rng(seed).permutation(len(rates)) < len(rates) // 2
    crossed = np.empty_like(rates)
    for half in (first, ~first):
        crossed[~half] = _line(rates[half], outcome[half], weight[half]).apply(rates[~half])
    return crossed


def _line(rates: Vector, outcome: Vector, weight: Vector) -> Calibration:
    """Logistic regression of the outcome on the log-odds: the least of the penalised cross-entropy, which is convex,
    with the scale within SCALE. (scikit-learn's knows neither soft outcomes nor a prior around 1.)"""
    columns, weight = _columns(rates), _effective(weight)
    prior = np.array([1.0, 0.0])

    def loss(at: Vector) -> tuple[float, Vector]:
        z = at @ columns
        value = float(weight @ (np.logaddexp(0, z) - outcome * z)) + PRIOR / 2 * float(np.square(at - prior).sum())
        return value, columns @ (weight * (expit(z) - outcome)) + PRIOR * (at - prior)

    line = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=[SCALE, (None, None)], tol=1e-12)
    return Calibration(float(line.x[0]), float(line.x[1]))


def _columns(rates: Vector) -> Vector:
    """Log-odds and ones, shape (2, n)."""
    clipped = np.clip(rates, EDGE, 1 - EDGE)
    return np.stack([np.log(clipped) - np.log1p(-clipped), np.ones_like(rates)])


def _effective(weight: Vector) -> Vector:
    """Weights whose sum is the number of comparisons that they are worth."""
    return np.asarray(weight * (weight.sum() / np.square(weight).sum()), np.float64)


def _slope(z: Vector) -> Vector:
    """Of the sigmoid: p (1 - p)."""
    slope: Vector = np.exp(-np.logaddexp(0, z) - np.logaddexp(0, -z))
    return slope


def _curvature(columns: Vector, slope: Vector, weight: Vector) -> Vector:
    """Of the penalised cross-entropy in scale and offset."""
    curvature: Vector = (columns * (weight * slope)) @ columns.T + PRIOR * np.eye(2)
    return curvature
