"""Calibration of win rates: a line through their log-odds, fitted on held-out prompts and kept in the artifact."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from routing_service.routers.artifact import parsed

Vector = npt.NDArray[np.float64]

EDGE = 1e-6  # log-odds of certainty are infinite
UNKNOWN_STD = 0.25  # of a win rate, where no held-out prompts have shown less


@dataclass(frozen=True, slots=True)
class Calibration:
    """win rate = sigmoid(scale * log-odds + offset), for a pair named with its stronger model first.

    `std` is what held-out prompts say that a win rate is off by, in units of the win rate.
    """

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    std: Annotated[float, Field(ge=0, le=1)] = UNKNOWN_STD

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
        return cls() if values is None else parsed(cls, values, "calibration")
