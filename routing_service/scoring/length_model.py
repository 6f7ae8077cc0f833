"""How many tokens a model's answer will have: learned from settled requests, by the prompt's cheap text features.

Ridge regression of log(1 + tokens) on the features that the gain router uses and on radial functions around landmarks;
where prompts do not tell lengths, the ridge leaves nothing but the mean. The mean is exp(prediction) times one factor
for what the logarithm hides (smearing), at most the longest answer seen; the upper quantile adds what held-out answers
ran over their prediction, among answers predicted to be about as long. Answers that a cap cut off count as they are:
the cap cuts the next ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from routing_service.errors import ArtifactError
from routing_service.routers.gain.kernel import Points, Standard, similarities
from routing_service.routers.gain.router import minibatches
from routing_service.routers.gain.text_features import NAMES, WIDTHS, Matrix, recent_features

Vector = npt.NDArray[np.float64]

LEAST_ROWS = 500  # settled answers; before that the stated prior is used
LANDMARKS = 256
FEATURES = WIDTHS[0]  # the finer ones tell which problems are hard, not how long their answers are
WIDTH = 0.76  # of the radial functions, as the gain router's
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 1e9)  # the last leaves nothing but the mean
HELD_OUT = 0.2
QUANTILE = 0.9
GROUPS = 5  # of equal size, by predicted length
MINIBATCH = 1024


@dataclass(frozen=True, slots=True)
class LengthModel:
    """Fitted by `fit`. `metrics`, on held-out answers: median_error and median_error_of_constant (relative), r2 (of the
    logarithm), coverage (of the upper quantile); of all answers: rows, mean_tokens."""

    standard: Standard
    landmarks: Points
    weight: Vector  # of 1, the features, the radial functions
    smearing: float
    longest: float  # tokens of the longest answer seen
    edges: Vector  # between the groups, in predicted log tokens, shape (GROUPS - 1,)
    excess: Vector  # of the quantile over the prediction, by group, shape (GROUPS,)
    metrics: dict[str, float]

    def mean(self, raw: Matrix) -> Vector:
        """Expected tokens of one answer, shape (n,), from 1 to the longest seen. `raw`: `prompt_features`."""
        mean: Vector = np.clip(np.exp(self._log(raw)) * self.smearing - 1, 1.0, max(1.0, self.longest))
        return mean

    def upper(self, raw: Matrix) -> Vector:
        """Tokens that nine answers in ten stay within, shape (n,)."""
        log = self._log(raw)
        upper: Vector = np.maximum(np.expm1(log + self.excess[np.searchsorted(self.edges, log)]), 1.0)
        return upper

    def _log(self, raw: Matrix) -> Vector:
        parts = [self._log_of(raw[start : start + MINIBATCH]) for start in range(0, len(raw), MINIBATCH)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _log_of(self, raw: Matrix) -> Vector:
        return _design(self.standard.points(raw), self.landmarks) @ self.weight

    def to_bytes(self) -> bytes:
        """Safetensors: small enough for a row of a table."""
        metrics = {f"metrics.{name}": np.array(value) for name, value in self.metrics.items()}
        return save(
            {
                "center": self.standard.center,
                "spread": self.standard.spread,
                "numbers": np.array([self.standard.separation, self.smearing, self.longest]),
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
            if not all(np.isfinite(values).all() for values in t.values()):
                raise ValueError("it holds numbers that are not finite")
            separation, smearing, longest = t["numbers"].tolist()
            metrics = {name.partition(".")[2]: float(t[name]) for name in t if name.startswith("metrics.")}
            standard = Standard(t["center"], t["spread"], separation)
            return cls(standard, t["landmarks"], t["weight"], smearing, longest, t["edges"], t["excess"], metrics)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"the length model cannot be read: {error}") from None


def prompt_features(prompts: Sequence[str]) -> Matrix:
    """What lengths are predicted from, shape (n, features): those that the gain router may just have read, too."""
    parts = [recent_features(prompts[start:stop]) for start, stop in minibatches(prompts)]
    return np.concatenate(parts) if parts else np.empty((0, len(NAMES)))


def fit(raw: Matrix, output_tokens: Sequence[float], *, seed: int = 0, least: int = LEAST_ROWS) -> LengthModel:
    """Learn from answers of one model. `raw`: `prompt_features`; `output_tokens`: of one answer to each prompt.

    ValueError for fewer than `least`. Same answers and seed, same model.
    """
    if len(raw) < least or len(raw) != len(output_tokens):
        raise ValueError(f"a length model needs {least} prompts with their answers' tokens, not {len(raw)}")
    standard = Standard.fit(raw[:, :FEATURES])
    points = standard.points(raw)
    length = np.asarray(output_tokens, np.float64)
    target = np.log1p(length)
    order = np.random.default_rng(seed).permutation(len(points))
    held, kept = np.split(order, [int(HELD_OUT * len(order))])
    landmarks = points[kept[:LANDMARKS]]
    moments = _moments(points[kept], landmarks, target[kept])
    trials = [_solve(*moments, ridge) for ridge in RIDGES]
    design = _design(points[held], landmarks)
    errors = [np.square(design @ weight - target[held]).mean() for weight in trials]
    best = int(np.argmin(errors))
    log = design @ trials[best]
    smearing = float(length[held].sum() + len(held)) / float(np.exp(log).sum())
    edges = np.quantile(log, np.linspace(0, 1, GROUPS + 1)[1:-1])
    over = target[held] - log
    group = np.searchsorted(edges, log)
    metrics = _metrics(log, smearing, length[held], float(length[kept].mean()))
    metrics |= {"coverage": _coverage(over, group)}
    metrics |= {"rows": float(len(length)), "mean_tokens": float(length.mean())}
    weight = _solve(*_moments(points, landmarks, target), RIDGES[best])
    return LengthModel(standard, landmarks, weight, smearing, float(length.max()), edges, _excess(over, group), metrics)


def _metrics(log: Vector, smearing: float, length: Vector, constant: float) -> dict[str, float]:
    predicted, true = np.exp(log) * smearing - 1, np.maximum(length, 1)
    return {
        "median_error": float(np.median(np.abs(predicted - length) / true)),
        "median_error_of_constant": float(np.median(np.abs(constant - length) / true)),
        "r2": 1 - float(np.square(log - np.log1p(length)).mean() / max(np.log1p(length).var(), 1e-12)),
    }


def _excess(over: Vector, group: npt.NDArray[np.intp]) -> Vector:
    """By group, what nine in ten of the answers to come stay within: a little above the quantile of the few seen."""
    quantiles = np.empty(GROUPS)
    for number in range(GROUPS):
        mine = over[group == number] if (group == number).any() else over
        quantiles[number] = np.quantile(mine, min(1.0, QUANTILE * (1 + 1 / len(mine))), method="higher")
    return quantiles


def _coverage(over: Vector, group: npt.NDArray[np.intp]) -> float:
    """The share that stays within the quantiles of others: each half's by those of the other half."""
    halves = [np.arange(len(over)) % 2 == half for half in (0, 1)]
    within = [over[~seen] <= _excess(over[seen], group[seen])[group[~seen]] for seen in halves]
    return float(np.concatenate(within).mean())


def _design(points: Points, landmarks: Points) -> Vector:
    """Intercept, features, radial functions."""
    parts = (
        np.ones((len(points), 1)),
        points[:, :-1] / np.sqrt(points.shape[1]),
        similarities(points, landmarks, WIDTH),
    )
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _moments(points: Points, landmarks: Points, target: Vector) -> tuple[Matrix, Vector]:
    """What every ridge solves for, added up a minibatch at a time."""
    width = points.shape[1] + len(landmarks)
    gram, moment = np.zeros((width, width)), np.zeros(width)
    for start in range(0, len(points), MINIBATCH):
        design = _design(points[start : start + MINIBATCH], landmarks)
        gram += design.T @ design
        moment += design.T @ target[start : start + MINIBATCH]
    return gram, moment


def _solve(gram: Matrix, moment: Vector, ridge: float) -> Vector:
    penalty = np.full(len(moment), ridge)
    penalty[0] = 1e-6  # the intercept is free
    weight: Vector = np.linalg.solve(gram + np.diag(penalty), moment).astype(np.float64)
    return weight
