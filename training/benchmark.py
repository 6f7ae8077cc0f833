"""An evaluation set: prompts, and how good the strong and the weak model's answers to them are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.comparisons import Pair
from training.tables import DataError

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`strong` and `weak`, shape (n,): the quality of the two models' answers, in [0, 1]. It is reported on the set's
    own `scale`, the values that 0 and 1 stand for.

    `costs`, shape (n, 2): dollars of the strong and the weak model's answer, None where answers are not recorded.
    `left_out` counts the prompts that do not take part.
    """

    name: str
    prompts: list[str]
    strong: Floats
    weak: Floats
    pair: Pair
    costs: Floats | None = None
    scale: tuple[float, float] = (0.0, 1.0)
    left_out: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError(f"no prompts are left of the set {self.name}" if self.left_out else f"{self.name} is empty")
        if not len(self.prompts) == len(self.strong) == len(self.weak):
            raise ValueError("an evaluation set needs as many prompts as qualities")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def gain(self) -> Floats:
        """Shape (n,), in [-1, 1]: the quality of strong minus weak."""
        return self.strong - self.weak

    def reported(self, quality: float) -> float:
        """A quality on the set's own scale."""
        low, high = self.scale
        return low + quality * (high - low)

    def take(self, rows: Rows) -> Benchmark:
        """These rows; the others count as left out. DataError where there are none."""
        return replace(
            self,
            prompts=[self.prompts[i] for i in rows.tolist()],
            strong=self.strong[rows],
            weak=self.weak[rows],
            costs=None if self.costs is None else self.costs[rows],
            left_out=self.left_out + len(self) - len(rows),
        )

    def without(self, prompts: Iterable[str]) -> Benchmark:
        """The set without these prompts. DataError where nothing is left."""
        unwanted = set(prompts)
        return self.take(np.flatnonzero([prompt not in unwanted for prompt in self.prompts]))
