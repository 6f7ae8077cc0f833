"""The draw of paired sampling: which lines the other model is asked for, too. Pure, and the same for the same seed.

Every line that could be drawn has the same chance, and they come in random order: should money run out before the end,
what was asked is still a random sample. How many are drawn follows from all of them together, never from those that
happen to be drawn, so the chance is known: it is the propensity that is logged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routing_service.planning import Ints

MOST_PAIRS = 20_000  # of a batch
MOST_BYTES = 256_000_000  # of prompts that are read at once
LARGEST_PART = 0.5  # of the money: a line that could cost more is not drawn from
DEARER = 1.25  # what answers may cost over what is expected before money is short


@dataclass(frozen=True, slots=True)
class Population:
    """The lines that may be drawn, shape (n,) each. Costs are nano-dollars, of the model that is to be asked: what it
    will probably take, and what it takes at the worst."""

    line: Ints
    expected: Ints
    worst: Ints
    size: Ints  # bytes of the prompt

    def __len__(self) -> int:
        return len(self.line)

    def where(self, which: npt.NDArray[np.bool_]) -> Population:
        return Population(self.line[which], self.expected[which], self.worst[which], self.size[which])


@dataclass(frozen=True, slots=True)
class Sample:
    """`lines`: in the order in which they are asked. `propensity`: the chance that each of `of` lines had."""

    lines: list[int]
    propensity: float
    of: int


def draw(population: Population, share: float, money_nano: int, seed: int) -> Sample:
    """Draw that share of the lines, or as many as the money will do for, uniformly and without replacement.

    The number is rounded up or down at random, so that batches too small for a whole line are not left out.
    """
    could = population.where(population.worst <= LARGEST_PART * money_nano)
    n = len(could)
    wanted = min(share * n, _affordable(could, money_nano), MOST_PAIRS) if n else 0.0
    if wanted <= 0:
        return Sample([], 0.0, n)
    rng = np.random.default_rng(seed)
    count = min(n, int(wanted + rng.random()))
    return Sample(rng.choice(could.line, count, replace=False).tolist(), wanted / n, n)


def _affordable(could: Population, money_nano: int) -> float:
    """For so many lines, whichever are drawn, the money will probably do: expected costs with some to spare, twice
    their sum's standard deviation, and a worst case to reserve for the last one."""
    spare = float(money_nano - could.worst.max())
    mean, deviation = DEARER * could.expected.mean(), 2 * could.expected.std()
    root = (math.sqrt(deviation**2 + 4 * mean * spare) - deviation) / (2 * mean) if mean > 0 else math.inf
    return min(root**2, MOST_BYTES / max(1.0, float(could.size.mean())))
