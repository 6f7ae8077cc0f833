"""What a random sample says of everything that it was drawn from: each line counts for those that could have been drawn
in its stead.

A line that was drawn with probability p stands for 1 / p lines. The sum over the sample, over the lines that it was
drawn from, is an unbiased estimate of their mean (Horvitz and Thompson, 1952), whatever p each had and however p was
chosen before the draw; a plain mean is not, once batches are sampled at different rates. Where the number of lines is
not known, or some draws came to nothing, the weights' own sum takes its place (Hájek): consistent, with less variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, and the 95 % interval (normal approximation) of the mean of traffic like it."""

    mean: float
    low: float
    high: float


def weighted_mean(values: Vector, propensity: Vector, population: int | None = None) -> Estimate:
    """The mean of what the lines were drawn from.

    `values`: of the lines that were drawn, shape (n,), such as the quality of a policy's choice on each, or how much
    better one model's answer is than the other's. `propensity`: with which each was drawn, shape (n,), in (0, 1].
    `population`: how many lines could have been drawn; None: estimated by the weights' sum.

    Raises ValueError for no lines, or a propensity outside (0, 1].
    """
    if not len(values) or not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError("an estimate needs at least one line, and propensities above 0 and at most 1")
    weight = 1 / propensity
    size = float(population if population is not None else weight.sum())
    mean = float((weight * values).sum() / size)
    rest = values if population is not None else values - mean
    spread = float(np.sqrt((weight**2 * rest**2).sum())) / size
    return Estimate(mean, mean - Z95 * spread, mean + Z95 * spread)
