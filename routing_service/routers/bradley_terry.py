"""The weighted Bradley-Terry problem, one or many at once: comparisons become a strength for every rival.

P(i beats j) = sigmoid(x_i - x_j); RouteLLM's coefficients are x / ln 10, its ratings 400 of those. A rival is a model
or a tier of models. As in RouteLLM, whose battles count twice, a comparison of weight w adds 2 w outcome to i's wins
over j and 2 w (1 - outcome) to j's over i. Its design matrix makes of a comparison inside a tier one of the tier with a
fixed reference of strength 0, which wins where the first model won; that is kept: without it win rates shift by up to
.007.

What the likelihood depends on is less than all wins: with N_ij the comparisons between i and j, n_i those inside i, and
b_i the wins of i less the reference's over i, its gradient is sum_j N_ij P_ij - n_i P(0 beats i) - b_i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

TOLERANCE = 1e-6  # of a step, in log-odds; what is left after that step is its square
MAX_STEPS = 100  # regular problems take three to eight
DAMPING = 1e-9  # of the diagonal: only differences of strengths are determined

__all__ = ["Sums", "is_regular", "solve"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a problem of T rivals, or of many problems: more axes in front."""

    between: Vector  # (.., T, T) symmetric, zero diagonal: comparisons between two rivals
    within: Vector  # (.., T) comparisons inside a rival
    balance: Vector  # (.., T) wins over other rivals, less those of the reference over this one

    @classmethod
    def of(cls, first: Integers, second: Integers, outcome: Vector, weight: Vector, rivals: int) -> Sums:
        """The sums of comparisons, `first` preferred over `second` by `outcome` in [0, 1]."""
        across = first != second
        cells = np.zeros((rivals, rivals))
        np.add.at(cells, (first[across], second[across]), 2 * weight[across])
        within: Vector = np.bincount(first[~across], 2 * weight[~across], rivals).astype(
            np.float64
        )  # whole numbers for no rows
        balance: Vector = np.bincount(first, np.where(across, 2, -2) * weight * outcome, rivals).astype(np.float64)
        balance += np.bincount(second[across], (2 * weight * (1 - outcome))[across], rivals)
        return cls(cells + cells.T, within, balance)

    def steadied(self, weight: float) -> Sums:
        """With a tie of that weight between every rival and the reference added, which makes any problem regular."""
        return Sums(self.between, self.within + 2 * weight, self.balance - weight)


def is_regular(first: Integers, second: Integers, outcome: Vector, rivals: int) -> bool:
    """Whether the strengths are finite: every rival has beaten every other, if not itself then by way of others.

    The reference counts as a rival where it was compared. (Ford 1957.)
    """
    inside = first == second
    reference = np.where(inside, rivals, first)
    size = rivals + int(inside.any())
    reach = np.eye(size, dtype=bool)
    won, lost = outcome > 0, outcome < 1
    reach[reference[won], second[won]] = True
    reach[second[lost], reference[lost]] = True
    for _ in range(size.bit_length()):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return bool(reach.all())


def solve(sums: Sums, start: Vector | None = None) -> Vector:
    """The strengths of the greatest likelihood, of the shape of `sums.within`, by Newton's method.

    Steps are cut as generalised self-concordance (Bach 2010) asks, so that the likelihood never falls: whole below 1,
    else log(1 + s) / s of a step of size s. Irregular problems end after MAX_STEPS, far apart but finite.
    """
    shape = sums.within.shape
    rivals = shape[-1]
    between = sums.between.reshape(-1, rivals, rivals)
    within, balance = sums.within.reshape(-1, rivals), sums.balance.reshape(-1, rivals)
    found = np.zeros(within.shape) if start is None else np.array(np.broadcast_to(start, within.shape))
    active = np.arange(len(found))
    for _ in range(MAX_STEPS):
        step = _newton_step(found[active], between[active], within[active], balance[active])
        size = np.maximum(step.max(axis=1), 0) - np.minimum(step.min(axis=1), 0)
        cut = np.where(size > 1, np.log1p(size) / np.maximum(size, 1), 1)
        found[active] += cut[:, None] * step
        active = active[size > TOLERANCE]
        if not len(active):
            break
    return found.reshape(shape)


def _newton_step(x: Vector, between: Vector, within: Vector, balance: Vector) -> Vector:
    """All of shape (problems, T), `between` (problems, T, T)."""
    odds = _sigmoid(x[:, :, None] - x[:, None, :])
    expected = between * odds
    against = _sigmoid(-x)
    gradient = expected.sum(axis=2) - within * against - balance
    curve = expected * (1 - odds)
    diagonal = curve.sum(axis=2) + within * against * (1 - against)
    hessian = -curve
    number = np.arange(x.shape[1])
    # The smallest positive number stands for a rival of whom these weights say nothing: it stays where it is.
    hessian[:, number, number] += diagonal * (1 + DAMPING) + np.finfo(float).tiny
    step: Vector = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    return step


def _sigmoid(x: Vector) -> Vector:
    value: Vector = 1 / (1 + np.exp(-np.clip(x, -700, 700)))
    return value
