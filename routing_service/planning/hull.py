"""PURE: the efficient hull of each request's models, and the upgrades along it.

A request can be answered by any of m models. Only the models on the upper hull of (expected extra cost, expected gain)
are ever worth their money: from one of them to the next dearer one is an increment, and a request's increments have
ever smaller ratios, so that ranking all increments of a batch by ratio never takes one before those that lead to it.

Units: costs in nano-dollars, gains in [-1, 1], ratios in gain per dollar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NANO = 1_000_000_000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int16]

NEVER = -np.inf  # the step of a model that is not on the hull


@dataclass(frozen=True, slots=True)
class Increments:
    """k upgrades: of request `row` from model `before` to model `after`. Arrays of shape (k,)."""

    row: Ints
    before: Small
    after: Small
    extra: Ints  # what `after` costs more than `before`
    gain: Floats
    ratio: Floats  # +inf where a gain costs nothing more

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class Damping:
    """How much a request's extra cost counts where it differs from the batch's mean: mean x (extra / mean) ** power.

    Predicted costs err. Where they differ by much they count in full (power 1: gain per dollar); where they hardly
    differ the differences are mostly error, and gain decides (power 0). `mean`: nano-dollars, by model, shape (m,).
    """

    power: float
    mean: tuple[int, ...]

    def lengths(self, extra: Floats) -> Floats:
        """Extra costs in dollars, shape (n, m - 1), as they count; what costs nothing more stays free."""
        mean = np.maximum(np.array(self.mean[1:], np.float64), 1) / NANO
        return np.where(extra > 0, mean * (extra / mean) ** self.power, 0.0)


def steps(cost: Ints, quality: npt.NDArray[np.floating], damping: Damping | None = None) -> Floats:
    """The ratio at which each model is reached, shape (n, m): NEVER off the hull, +inf for the first model.

    `cost` and `quality`: shape (n, m), the cheapest model first. A model that is no better than the cheapest is never
    reached, however little it costs; one that is better and no dearer is reached at +inf.
    """
    n, m = cost.shape
    ratios = np.full((n, m), NEVER)
    ratios[:, 0] = np.inf
    if m < 2:
        return ratios
    extra = np.maximum(cost[:, 1:] - cost[:, :1], 0).astype(np.float64) / NANO
    gain = 2.0 * (quality[:, 1:].astype(np.float64) - quality[:, :1])
    length = extra if damping is None else damping.lengths(extra)
    if m == 2:
        ratios[:, 1] = np.where(gain[:, 0] > 0, _slopes(gain[:, 0], length[:, 0]), NEVER)
        return ratios
    return _hulls(ratios, length, gain)


def _hulls(ratios: Floats, length: Floats, gain: Floats) -> Floats:
    """All rows' hulls at once: points by length, those below the line between their neighbours taken off again."""
    n, others = length.shape
    order = np.lexsort((-gain, length), axis=1)
    rows = np.arange(n)
    at_length, at_gain, slope = np.zeros((n, others + 1)), np.zeros((n, others + 1)), np.full((n, others + 1), np.inf)
    model = np.zeros((n, others + 1), np.int16)
    depth = np.zeros(n, np.int64)
    for place in range(others):
        point = order[:, place]
        x, y = length[rows, point], gain[rows, point]
        better = np.flatnonzero(y > at_gain[rows, depth])
        steep = _slopes(y[better] - at_gain[better, depth[better]], x[better] - at_length[better, depth[better]])
        while True:
            above = (depth[better] > 0) & (steep >= slope[better, depth[better]])
            if not above.any():
                break
            popped = better[above]
            depth[popped] -= 1
            top = depth[popped]
            steep[above] = _slopes(y[popped] - at_gain[popped, top], x[popped] - at_length[popped, top])
        depth[better] += 1
        top = depth[better]
        at_length[better, top], at_gain[better, top], slope[better, top] = x[better], y[better], steep
        model[better, top] = point[better] + 1
    for level in range(1, others + 1):
        on = np.flatnonzero(depth >= level)
        ratios[on, model[on, level]] = slope[on, level]
    return ratios


def _slopes(rise: Floats, run: Floats) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        slope: Floats = np.where(run > 0, rise / np.where(run > 0, run, 1), np.inf)
    return slope


def increments(step: Floats, cost: Ints, quality: npt.NDArray[np.floating]) -> Increments:
    """The upgrades that `steps` names, by row and along each row's hull."""
    n, m = step.shape
    if m == 2:
        row = np.flatnonzero(step[:, 1] > NEVER)
        before, after = np.zeros(len(row), np.int16), np.ones(len(row), np.int16)
    else:
        # Along a hull steps fall; the first model stands before a model that is reached at +inf as well.
        order = np.lexsort((np.broadcast_to(np.arange(m) > 0, (n, m)), -step), axis=1).astype(np.int16)
        reached = np.take_along_axis(step, order, axis=1)[:, 1:] > NEVER
        row, place = np.nonzero(reached)
        before, after = order[row, place], order[row, place + 1]
    gain = 2.0 * (quality[row, after].astype(np.float64) - quality[row, before])
    return Increments(row, before, after, cost[row, after] - cost[row, before], gain, step[row, after])


def chosen(step: Floats, line: Ints, shadow_price: float, cut_line: int) -> Small:
    """The model of each request, shape (n,), that a plan's shadow price and cut line mean.

    An increment is taken if its ratio is above the shadow price, or equal to it on a line up to the cut line; of the
    models that are reached the last one answers.
    """
    taken = (step > shadow_price) | ((step == shadow_price) & (line <= cut_line)[:, None])
    depth = np.where(taken & (step > NEVER), -np.minimum(step, np.finfo(float).max), -np.inf)
    depth[:, 0] = -np.inf
    models: Small = np.argmax(depth, axis=1).astype(np.int16)
    return models
