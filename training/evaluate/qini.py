"""The Qini coefficient of a ranking: what it gains over a random one, and how surely. Pure.

A ranking's gain at a share c is the summed gain of the c prompts that it sends to the strong model first. Its Qini
coefficient is the mean of that over all c from 0 to 1, less a random ranking's, in points of quality:
APGR = 1/2 + Qini / mean gain. Unlike APGR it needs no gap between the models, and it is linear in the gains: nothing is
divided by a gap that may be noise. A ranking turned around has the same coefficient, negative; one that tells nothing
apart has none. Ties are one step.

Errors are those of the first-order (Hájek) projection of this U-statistic over prompts, with an allowance for what it
leaves out. They need no random draws, so that the same evidence always gives the same interval, and more of the same a
narrower one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.intervals import standard_errors

Floats = npt.NDArray[np.float64]

__all__ = ["Estimate", "difference", "effective", "mean", "qini"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    error: float

    def interval(self, tests: int = 1) -> tuple[float, float]:
        """The 95 % interval; with several tests the one that holds for all of them together (Bonferroni)."""
        reach = standard_errors(tests=tests) * self.error
        return self.value - reach, self.value + reach


def qini(scores: Floats, gain: Floats, weight: Floats) -> Estimate:
    """Of a ranking by `scores`, the highest first. All of shape (n,): one entry a prompt, weights above 0."""
    return _estimate(*_projected(scores, gain, _shares(weight)), gain, weight)


def difference(first: Floats, second: Floats, gain: Floats, weight: Floats) -> Estimate:
    """That of `first` less that of `second`, paired by prompt: exactly 0 for rankings that are the same."""
    share = _shares(weight)
    value, influence = _projected(first, gain, share)
    other, of_other = _projected(second, gain, share)
    return _estimate(value - other, influence - of_other, gain, weight)


def mean(values: Floats, weight: Floats) -> Estimate:
    """The weighted mean."""
    share = _shares(weight)
    value = float(share @ values)
    return Estimate(value, _error(values - value, share))


def effective(weight: Floats) -> float:
    """How many prompts of equal weight these are worth."""
    return float(1 / np.square(_shares(weight)).sum())


def _shares(weight: Floats) -> Floats:
    share: Floats = weight / weight.sum()
    return share


def _projected(scores: Floats, gain: Floats, share: Floats) -> tuple[float, Floats]:
    """The Qini coefficient, and by how much each prompt moves it."""
    order = np.argsort(scores, kind="stable")
    new = np.r_[True, np.diff(scores[order]) != 0]
    start, step = np.flatnonzero(new), np.cumsum(new) - 1
    of_step = np.add.reduceat(share[order], start)
    gain_of_step = np.add.reduceat((share * gain)[order], start)
    rank, below = np.empty_like(gain), np.empty_like(gain)
    rank[order] = (np.cumsum(of_step) - of_step / 2)[step]  # the share of lower scores, ties by half
    below[order] = (np.cumsum(gain_of_step) - gain_of_step / 2)[step]  # and what they gain
    own = gain * (rank - 0.5)
    value = float(share @ own)
    return value, own + float(share @ gain) / 2 - below - 2 * value


def _estimate(value: float, influence: Floats, gain: Floats, weight: Floats) -> Estimate:
    share = _shares(weight)
    # Where every prompt moves the figure alike (a perfect ranking of as many hard as easy prompts) the first order says
    # 0, and what is left is of the order of the gains over n.
    rest = float(share @ np.square(gain)) / effective(weight) ** 2
    return Estimate(value, float(np.sqrt(_error(influence, share) ** 2 + rest)))


def _error(centred: Floats, share: Floats) -> float:
    n = len(centred)
    return float(np.sqrt(np.square(share) @ np.square(centred) * n / (n - 1))) if n > 1 else float("inf")
