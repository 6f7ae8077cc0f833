"""How many tokens a model's answer will have: learned from settled requests, by the prompt's cheap text features.

Ridge regression of log(1 + tokens) on the features that the gain router uses and on radial functions around landmarks.
The mean is exp(prediction) times one factor for what the logarithm hides (smearing); the upper quantile adds what
held-out answers ran over their prediction, among answers predicted to be about as long. Answers that a cap cut off
count as they are: the cap cuts the next ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from routing_service.errors import ArtifactError
from routing_service.routers.rbf import Points, Standard, similarities
from routing_service.routers.text_features import features, tokens

Vector = npt.NDArray[np.float64]

LEAST_ROWS = 500  # settled answers; before that the stated prior is used
LANDMARKS = 256
WIDTH = 0.76  # of the radial functions, as the gain router's
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
HELD_OUT = 0.2
QUANTILE = 0.9
GROUPS = 5  # of equal size, by predicted length
MINIBATCH = 1024


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Fitted by `fit`. `metrics`, on held-out answers: median_error and median_error_of_constant (relative), r2 (of the
    logarithm), coverage (of the upper quantile), rows."""

    standard: Standard
    landmarks: Points
    weight: Vector
    smearing: float
    edges: Vector  # between the groups, in predicted log tokens, shape (GROUPS - 1,)
    excess: Vector  # of the quantile over the prediction, by group, shape (GROUPS,)
    metrics: dict[str, float]

    def mean(self, prompts: Sequence[str]) -> Vector:
        """Expected tokens of one answer, shape (n,), at least 1."""
        mean: Vector = np.maximum(np.exp(self._log(prompts)) * self.smearing - 1, 1.0)
        return mean

    def upper(self, prompts: Sequence[str]) -> Vector:
        """Tokens that nine answers in ten stay within, shape (n,)."""
        log = self._log(prompts)
        upper: Vector = np.maximum(np.expm1(log + self.excess[np.searchsorted(self.edges, log)]), 1.0)
        return upper

    def _log(self, prompts: Sequence[str]) -> Vector:
        parts = [self._design(part) @ self.weight for part in _minibatches(prompts)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _design(self, prompts: Sequence[str]) -> Vector:
        return _design(self.standard.points(features(prompts, tokens(prompts))), self.landmarks)

    def to_bytes(self) -> bytes:
        """Safetensors: small enough for a row of a table."""
        metrics = {f"metrics.{name}": np.array(value) for name, value in self.metrics.items()}
        return save(
            {
                "center": self.standard.center,
                "spread": self.standard.spread,
                "numbers": np.array([self.standard.separation, self.smearing]),
                "landmarks": self.landmarks,
                "weight": self.weight,
                "edges": self.edges,
                "excess": self.excess,
            }
            | metrics
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """ArtifactError for anything but what `to_bytes` gave."""
        try:
            t: dict[str, npt.NDArray[Any]] = load(data)
            separation, smearing = t["numbers"].tolist()
            metrics = {name.partition(".")[2]: float(t[name]) for name in t if name.startswith("metrics.")}
            standard = Standard(t["center"], t["spread"], separation)
            return cls(standard, t["landmarks"], t["weight"], smearing, t["edges"], t["excess"], metrics)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"the length model cannot be read: {error}") from None


def fit(prompts: Sequence[str], output_tokens: Sequence[int], *, seed: int = 0) -> LengthModel:
    """Learn from answers of one model. ValueError for fewer than LEAST_ROWS. Same answers and seed, same model."""
    if len(prompts) < LEAST_ROWS or len(prompts) != len(output_tokens):
        raise ValueError(f"a length model needs {LEAST_ROWS} prompts with their answers' tokens, not {len(prompts)}")
    raw = np.concatenate([features(part, tokens(part)) for part in _minibatches(prompts)])
    standard = Standard.fit(raw)
    points = standard.points(raw)
    length = np.asarray(output_tokens, np.float64)
    order = np.random.default_rng(seed).permutation(len(points))
    held, kept = np.split(order, [int(HELD_OUT * len(order))])
    landmarks = points[kept[:LANDMARKS]]
    trials = [_solve(points[kept], landmarks, np.log1p(length[kept]), ridge) for ridge in RIDGES]
    design = _design(points[held], landmarks)
    errors = [np.square(design @ weight - np.log1p(length[held])).mean() for weight in trials]
    best = int(np.argmin(errors))
    log = design @ trials[best]
    smearing = float(length[held].sum() + len(held)) / float(np.exp(log).sum())
    edges = np.quantile(log, np.linspace(0, 1, GROUPS + 1)[1:-1])
    over = np.log1p(length[held]) - log
    group = np.searchsorted(edges, log)
    excess = np.array([np.quantile(over[group == g] if (group == g).any() else over, QUANTILE) for g in range(GROUPS)])
    metrics = _metrics(log, smearing, length[held], float(length[kept].mean()))
    metrics |= {"rows": float(len(length)), "coverage": float((over <= excess[group]).mean())}
    weight = _solve(points, landmarks, np.log1p(length), RIDGES[best])
    return LengthModel(standard, landmarks, weight, smearing, edges, excess, metrics)


def _metrics(log: Vector, smearing: float, length: Vector, constant: float) -> dict[str, float]:
    predicted, true = np.exp(log) * smearing - 1, np.maximum(length, 1)
    return {
        "median_error": float(np.median(np.abs(predicted - length) / true)),
        "median_error_of_constant": float(np.median(np.abs(constant - length) / true)),
        "r2": 1 - float(np.square(log - np.log1p(length)).mean() / max(np.log1p(length).var(), 1e-12)),
    }


def _design(points: Points, landmarks: Points) -> Vector:
    """Intercept, features, radial functions."""
    parts = (
        np.ones((len(points), 1)),
        points[:, :-1] / np.sqrt(points.shape[1]),
        similarities(points, landmarks, WIDTH),
    )
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _solve(points: Points, landmarks: Points, target: Vector, ridge: float) -> Vector:
    width = points.shape[1] + len(landmarks)
    gram: Vector = ridge * np.eye(width)
    moment = np.zeros(width)
    gram[0, 0] = 1e-6  # the intercept is free
    for start in range(0, len(points), MINIBATCH):
        design = _design(points[start : start + MINIBATCH], landmarks)
        gram += design.T @ design
        moment += design.T @ target[start : start + MINIBATCH]
    weight: Vector = np.linalg.solve(gram, moment).astype(np.float64)
    return weight


def _minibatches(prompts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(prompts), MINIBATCH):
        yield prompts[start : start + MINIBATCH]
