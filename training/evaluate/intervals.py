"""Means of values in [0, 1], and shares, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Self

Z = 1.959963984540054  # 95 %


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: `mean` of n draws of 0 or 1. Of draws between them it is wide enough, too:
    none vary more. (0, 1) without draws."""
    if n <= 0:
        return 0.0, 1.0
    shrink = 1 + Z * Z / n
    centre = (mean + Z * Z / (2 * n)) / shrink
    half = Z * sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n)) / shrink
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
