"""The radial kernel over a prompt's features: standardised within its format, near ones alike, far ones not.

Two shapes: the Laplacian falls at once with the distance, the Gaussian only beyond its width. The first is better where
every label is a landmark; the second loses nothing on few landmarks.

Formats are prompts with answer options and prompts without; what is long or rich in numbers for one is not for the
other. The format is appended as a coordinate so far apart that the kernel acts within formats alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from routing_service.routers.gain.text_features import OPTIONS

Points = npt.NDArray[np.float32]
Shape = Literal["gaussian", "laplacian"]
SEPARATION = {"gaussian": 30.0, "laplacian": 70.0}  # over the width for the Laplacian: similarities below .0003
LEAST_ROWS = 100  # of a format, to have its own mean and spread
LIMIT = 4.0  # standard deviations; what lies beyond says no more than that


@dataclass(frozen=True, slots=True)
class Standard:
    """Mean and spread of every feature, shape (2, w): of prompts without options, of prompts with them. A model fitted
    before there were more than the first w features knows those alone.
    """

    center: Points
    spread: Points
    separation: float  # 0 where the two formats are pooled

    @classmethod
    def fit(cls, features: npt.NDArray[np.floating], separation: float = SEPARATION["gaussian"]) -> Standard:
        """Pooled where either format has fewer than LEAST_ROWS rows."""
        with_options = features[:, OPTIONS] > 0
        pooled = min(with_options.sum(), (~with_options).sum()) < LEAST_ROWS
        groups = [features, features] if pooled else [features[~with_options], features[with_options]]
        spread = np.array([group.std(0, dtype=np.float64) for group in groups])
        spread[spread < 1e-9] = 1e9  # a feature that never varied has nothing to say
        center = np.array([group.mean(0, dtype=np.float64) for group in groups])
        return cls(center.astype(np.float32), spread.astype(np.float32), 0.0 if pooled else separation)

    def points(self, features: npt.NDArray[np.floating]) -> Points:
        """Features as points of shape (n, w + 1)."""
        group = (features[:, OPTIONS] > 0).astype(np.intp)
        width = self.center.shape[1]
        points = np.empty((len(features), width + 1), np.float32)
        points[:, :-1] = np.clip((features[:, :width] - self.center[group]) / self.spread[group], -LIMIT, LIMIT)
        points[:, -1] = group * self.separation
        return points


def similarities(points: Points, others: Points, width: float, shape: Shape = "gaussian") -> Points:
    """exp(-width * d^2) or exp(-width * d), d^2 being the squared distance / w; shape (points, others)."""
    squares = np.einsum("ij,ij->i", points, points)[:, None] + np.einsum("ij,ij->i", others, others)[None, :]
    distance = squares - 2 * (points @ others.T)
    np.maximum(distance, 0, out=distance)
    distance /= np.float32(points.shape[1] - 1)
    if shape == "laplacian":
        np.sqrt(distance, out=distance)
    distance *= np.float32(-width)
    similar: Points = np.exp(distance, out=distance)
    return similar
