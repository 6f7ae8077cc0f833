"""Intervals: how many standard errors hold a share of all cases, and Wilson's interval of a mean in [0, 1].

The normal quantile is scipy.special's: importing scipy.stats takes seconds, which every command would wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Self

from scipy.special import ndtri

LEVEL = 0.95

__all__ = ["LEVEL", "Mean", "standard_errors", "wilson"]


def standard_errors(level: float = LEVEL, tests: int = 1) -> float:
    """How many standard errors on either side of an estimate hold the truth with probability `level`, if errors are
    normal. With several tests, so many that all of them hold together (Bonferroni)."""
    return float(ndtri(1 - (1 - level) / (2 * tests)))


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: `mean` of n draws of 0 or 1. Of draws between them it is wide enough, too:
    none vary more. (0, 1) without draws."""
    if n <= 0:
        return 0.0, 1.0
    z = standard_errors()
    shrink = 1 + z * z / n
    centre = (mean + z * z / (2 * n)) / shrink
    half = z * sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of `n` values in [0, 1] with Wilson's 95 % interval; None of none."""

    n: int
    mean: float | None
    interval: tuple[float, float]

    @classmethod
    def of(cls, total: float, n: int) -> Self:
        mean = total / n if n else None
        return cls(n, mean, wilson(mean or 0.0, n))
