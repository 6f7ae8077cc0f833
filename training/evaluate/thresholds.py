"""Thresholds: from which win rate on a prompt goes to the strong model, so that a wanted share of the prompts does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.intervals import standard_errors

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.intp]

DIGITS = 15  # of a threshold; win rates are float32 and differ long before
ROUNDING = 1e-9  # a share of 0.1 + 0.2 asks for three prompts of ten

__all__ = ["Cut", "WinRates"]


@dataclass(frozen=True, slots=True)
class Cut:
    """`strong` of `prompts` have a win rate of at least `threshold`."""

    threshold: float
    strong: int
    prompts: int

    @property
    def share(self) -> float:
        return self.strong / self.prompts

    @property
    def margin(self) -> float:
        """Half of the 95 % interval in which the share of as many other prompts of the same kind lies."""
        return float(standard_errors() * np.sqrt(self.share * (1 - self.share) / self.prompts))


class WinRates:
    """The win rates of a user's prompts, shape (n,), n > 0, cut at any share."""

    def __init__(self, rates: npt.ArrayLike) -> None:
        values = np.asarray(rates, dtype=np.float64)  # exactly what the service compares with a threshold
        if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
            raise ValueError("win rates must be a list of numbers from 0 to 1, and not empty")
        descending = -np.sort(-values)
        self.prompts = len(values)
        ends = np.flatnonzero(np.r_[np.diff(descending) != 0, True])  # the last row of each run of ties
        self._values: Floats = descending[ends]
        self._counts: Counts = ends + 1

    def cut(self, share: float) -> tuple[Cut, Cut | None]:
        """The cut that sends the share nearest to `share` and not above it.

        Prompts of one win rate go together. Where they make the share impossible, the second cut is the next one,
        which sends more than wanted. A win rate of 1 reaches every threshold: then even the first may send more.
        """
        wanted = int(np.floor(share * self.prompts + ROUNDING))
        place = int(np.searchsorted(self._counts, wanted, side="right")) - 1
        if place < 0 and self._values[0] >= 1:
            place = 0
        first = self._at(place)
        return first, self._at(place + 1) if first.strong < wanted else None

    def _at(self, place: int) -> Cut:
        """The cut below the run of ties at `place`; -1: above all of them."""
        if place < 0:
            return Cut(1.0, 0, self.prompts)
        strong = int(self._counts[place])
        if strong == self.prompts:
            return Cut(0.0, strong, self.prompts)
        return Cut(_shortest(self._values[place + 1], self._values[place]), strong, self.prompts)


def _shortest(low: float, high: float) -> float:
    """About the middle of (low, high], in as few decimals as stay inside."""
    middle = (float(low) + float(high)) / 2
    for digits in range(1, DIGITS + 1):
        rounded = round(middle, digits)
        if low < rounded <= high:
            return rounded
    return float(high)
