"""The gain router: expected quality of the strong model's answer minus the weak one's, by the prompt's text alone.

The mean of a Gaussian process (kernel ridge) with two kernels: cosine of word TF-IDF, kept primal, and a radial kernel
over 73 cheap features, on landmarks. No encoder. It estimates one pair; every dearer model is taken for the strong one.

The standard deviation is that of the expected gain, not of one answer's outcome: what the labels leave open about this
prompt. It is cheap and approximate: for the features the posterior on a few landmarks, for the terms the posterior
with terms taken as independent (which reads somewhat low). A prompt unlike all labels gets the prior's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from routing_service.errors import ArtifactError
from routing_service.routers import artifact
from routing_service.routers.base import Floats, SavedRouter
from routing_service.routers.rbf import Points, Standard, similarities
from routing_service.routers.text_features import NAMES, features, tokens
from routing_service.routers.tfidf import Rows, Vocabulary
from routing_service.settings import Settings

MINIBATCH = 1024
MINIBATCH_CHARACTERS = 4_000_000  # bounds the memory where prompts are long
EXPLAINED = 10

Vector = npt.NDArray[np.float64]
Half = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a fitted router that are no tensors."""

    mean: float  # gain of a prompt of which nothing is known
    noise: float  # spread of one label around the expected gain; the kernels are in units of its square
    term_kernel: float
    feature_kernel: float
    width: float
    separation: float
    scale: float = 1.0  # calibration: scale * raw + offset
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class GainModel:
    """What a fit gives; V terms, m landmarks of which the first k carry the variance."""

    vocabulary: Vocabulary
    standard: Standard
    term_weight: Half  # (V,)
    term_variance: Half  # (V,) what the labels leave of a term's prior variance
    landmarks: Points  # (m, 74)
    landmark_weight: Floats  # (m,)
    reduction: Floats  # (k, r) the variance that the labels took away is |similarities @ reduction|^2
    figures: Figures


class GainRouter(SavedRouter):
    name = "gain"

    def __init__(self, model: GainModel, metadata: dict[str, Any] | None = None) -> None:
        self.model = model
        self.metadata = metadata or {}  # seed, data and metrics: saved with the router
        self._term_weight = model.term_weight.astype(np.float64)
        self._term_variance = model.term_variance.astype(np.float64)

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        gain, std = self.gains(prompts)
        quality = np.full((len(prompts), len(models)), 0.5, dtype=np.float32)
        spread = np.zeros_like(quality)
        quality[:, 1:] += gain[:, None] / 2
        spread[:, 1:] = std[:, None] / 2
        return quality, spread

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        """0.5 + gain / 2, whichever pair is named."""
        rates: Floats = np.float32(0.5) + self.gains(prompts)[0] / np.float32(2)
        return rates

    def gains(self, prompts: Sequence[str]) -> tuple[Floats, Floats]:
        """Expected gain, in [-1, 1], and its standard deviation, both of shape (prompts,)."""
        gain = np.empty(len(prompts), np.float32)
        std = np.empty(len(prompts), np.float32)
        for start, stop in minibatches(prompts):
            gain[start:stop], std[start:stop] = self._estimate(prompts[start:stop])
        return gain, std

    def _estimate(self, prompts: Sequence[str]) -> tuple[Vector, Vector]:
        figures = self.model.figures
        words = tokens(prompts)
        terms = self.model.vocabulary.rows(words)
        similar = self._similar(self.model.standard.points(features(prompts, words)))
        raw = figures.mean + terms.times(self._term_weight) + similar @ self.model.landmark_weight
        gain = np.clip(figures.scale * raw + figures.offset, -1, 1)
        std = figures.scale * figures.noise * np.sqrt(self._variance(terms, similar))
        return gain, np.minimum(std, 1)  # no number in [-1, 1] spreads more

    def _similar(self, points: Points) -> Points:
        return similarities(points, self.model.landmarks, self.model.figures.width)

    def _variance(self, terms: Rows, similar: Points) -> Vector:
        """What the labels leave of the prior variance, in units of the noise."""
        figures, reduction = self.model.figures, self.model.reduction
        taken = np.square(similar[:, : len(reduction)] @ reduction).sum(1)
        of_terms = np.bincount(terms.row, np.square(terms.value) * self._term_variance[terms.term], terms.count)
        of_terms[np.bincount(terms.row, minlength=terms.count) == 0] = figures.term_kernel  # no known word
        of_features: Vector = np.maximum(figures.feature_kernel - taken, 0)
        return of_terms + of_features

    def explain(self, prompt: str) -> dict[str, Any]:
        """The terms and features that move the estimate most, in gain.

        A term's contribution is exact. A feature's is how far the gain would move if that feature alone were at the
        average of its format: not additive. (The artifact holds figures and a vocabulary, no prompts to show.)
        """
        model, scale = self.model, self.model.figures.scale
        words = tokens([prompt])
        values = features([prompt], words)
        terms = model.vocabulary.rows(words)
        of_terms = scale * terms.value * self._term_weight[terms.term]
        point = model.standard.points(values)
        others = np.repeat(point, len(NAMES), axis=0)
        others[np.arange(len(NAMES)), np.arange(len(NAMES))] = 0
        here, there = (self._similar(points) @ model.landmark_weight for points in (point, others))
        of_features = scale * (here - there)
        gain, std = self.gains([prompt])
        top_terms, top_features = (np.argsort(-np.abs(c), kind="stable")[:EXPLAINED] for c in (of_terms, of_features))
        return {
            "router": self.name,
            "win_rate": 0.5 + float(gain[0]) / 2,
            "gain": float(gain[0]),
            "std": float(std[0]),
            "average_gain": scale * model.figures.mean + model.figures.offset,
            "terms": [
                {"term": model.vocabulary.term(int(terms.term[i])), "contribution": float(of_terms[i])}
                for i in top_terms
            ],
            "features": [
                {"feature": NAMES[i], "value": float(values[0, i]), "contribution": float(of_features[i])}
                for i in top_features
                if of_features[i]
            ],
        }

    def pack(self) -> tuple[artifact.Tensors, dict[str, Any]]:
        return _tensors(self.model), self.metadata | {"figures": _numbers(self.model)}

    @classmethod
    def unpack(cls, saved: artifact.Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        figures = _figures(metadata.pop("figures", None))
        return cls(_model(saved, figures), metadata)


def minibatches(prompts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of at most MINIBATCH prompts and, unless one prompt alone is longer, MINIBATCH_CHARACTERS."""
    start = size = 0
    for number, prompt in enumerate(prompts):
        if number - start == MINIBATCH or (size and size + len(prompt) > MINIBATCH_CHARACTERS):
            yield start, number
            start, size = number, 0
        size += len(prompt)
    if start < len(prompts):
        yield start, len(prompts)


def _numbers(model: GainModel) -> dict[str, float]:
    return {name: getattr(model.figures, name) for name in Figures.__slots__}


def _figures(numbers: Any) -> Figures:
    names = set(Figures.__slots__)
    if not isinstance(numbers, dict) or set(numbers) != names:
        raise ArtifactError(f"the gain artifact's figures are not {', '.join(sorted(names))}")
    if not all(isinstance(n, int | float) and np.isfinite(n) for n in numbers.values()):
        raise ArtifactError("the gain artifact's figures are not all finite numbers")
    return Figures(**numbers)


def _tensors(model: GainModel) -> artifact.Tensors:
    vocabulary = model.vocabulary
    first, second = np.divmod(vocabulary.pairs, max(len(vocabulary.words), 1))
    return {
        "words": np.frombuffer("\n".join(vocabulary.words).encode(), np.uint8),
        "pair_counts": np.bincount(first, minlength=len(vocabulary.words)).astype(np.uint32),  # by first word
        "pair_seconds": second.astype(np.uint32),
        "idf": vocabulary.idf.astype(np.float16),
        "term_weight": model.term_weight,
        "term_variance": model.term_variance,
        "center": model.standard.center,
        "spread": model.standard.spread,
        "landmarks": model.landmarks,
        "landmark_weight": model.landmark_weight,
        "reduction": model.reduction,
    }


def _model(saved: artifact.Artifact, figures: Figures) -> GainModel:
    vocabulary = _vocabulary(saved)
    terms, width = len(vocabulary), len(NAMES)
    landmarks = saved.tensor("landmarks", np.float32, -1, width + 1)
    reduction = saved.tensor("reduction", np.float32, -1, -1)
    if len(reduction) > len(landmarks):
        raise ArtifactError("the gain artifact's reduction has more rows than there are landmarks")
    spread = saved.tensor("spread", np.float32, 2, width)
    if not (spread > 0).all():
        raise ArtifactError("the gain artifact's spread is not positive")
    return GainModel(
        vocabulary,
        Standard(saved.tensor("center", np.float32, 2, width), spread, figures.separation),
        saved.tensor("term_weight", np.float16, terms),
        saved.tensor("term_variance", np.float16, terms),
        landmarks,
        saved.tensor("landmark_weight", np.float32, len(landmarks)),
        reduction,
        figures,
    )


def _vocabulary(saved: artifact.Artifact) -> Vocabulary:
    try:
        text = saved.tensor("words", np.uint8, -1).tobytes().decode()
    except UnicodeDecodeError:
        raise ArtifactError("the gain artifact's words are not UTF-8") from None
    words = text.split("\n") if text else []
    counts = saved.tensor("pair_counts", np.uint32, len(words)).astype(np.int64)
    second = saved.tensor("pair_seconds", np.uint32, int(counts.sum())).astype(np.int64)
    pairs = np.repeat(np.arange(len(words)), counts) * len(words) + second
    if len(set(words)) != len(words) or (second >= len(words)).any() or (np.diff(pairs) <= 0).any():
        raise ArtifactError("the gain artifact's vocabulary is not in order")
    idf = saved.tensor("idf", np.float16, len(words) + len(pairs))
    if not (idf > 0).all():
        raise ArtifactError("the gain artifact's idf is not positive")
    return Vocabulary(words, pairs, idf)
