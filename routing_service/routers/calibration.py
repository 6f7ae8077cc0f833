"""Calibration of win rates: a line through their log-odds, fitted on held-out prompts and kept in the artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from routing_service.errors import ArtifactError

Vector = npt.NDArray[np.float64]

EDGE = 1e-6  # log-odds of certainty are infinite
UNKNOWN_STD = 0.25  # of a win rate, where no held-out prompts have shown less


@dataclass(frozen=True, slots=True)
class Calibration:
    """win rate = sigmoid(scale * log-odds + offset), for a pair named with its stronger model first.

    `std` is what held-out prompts say that a win rate is off by, in units of the win rate.
    """

    scale: float = 1.0
    offset: float = 0.0
    std: float = UNKNOWN_STD

    def apply(self, rates: Vector, side: npt.ArrayLike = 1) -> Vector:
        """Calibrated win rates, of the same shape; never turns a ranking around.

        `side`, broadcast to that shape: 1 for a pair named with its stronger model first, -1 for one named the other
        way round, 0 for models that are equally strong.
        """
        if (self.scale, self.offset) == (1.0, 0.0):
            return rates
        clipped = np.clip(rates, EDGE, 1 - EDGE)
        odds = np.log(clipped) - np.log1p(-clipped)
        calibrated: Vector = 1 / (1 + np.exp(-(self.scale * odds + self.offset * np.asarray(side))))
        return calibrated

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """ArtifactError unless these are the three numbers: finite, scale above 0, std from 0 to 1."""
        if values is None:
            return cls()
        names = set(cls.__slots__)
        if not isinstance(values, dict) or set(values) != names:
            raise ArtifactError(f"the calibration is not {', '.join(sorted(names))}")
        if not all(isinstance(n, int | float) and np.isfinite(n) for n in values.values()):
            raise ArtifactError("the calibration holds something that is no finite number")
        if values["scale"] <= 0 or not 0 <= values["std"] <= 1:
            raise ArtifactError("the calibration's scale must be above 0, its std 0 to 1")
        return cls(**{name: float(number) for name, number in values.items()})
