"""The gain router: expected quality of the strong model's answer minus the weak one's, by the prompt's text alone.

The mean of a Gaussian process (kernel ridge) with two kernels: cosine of word TF-IDF, kept primal, and a radial kernel
over 89 cheap features, on landmarks; by choice also the cosine of an encoder's vectors, without which no encoder is
loaded. It estimates one pair; every dearer model is taken for the strong one.

The standard deviation is that of the expected gain, not of one answer's outcome: what the labels leave open about this
prompt. It is cheap and approximate: for the features the posterior on a few landmarks, for the terms the posterior
with terms taken as independent (which reads somewhat low). A prompt unlike all labels gets the prior's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder, identify, saved_encoder
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Floats, SavedRouter
from routing_service.routers.gain.kernel import Points, similarities
from routing_service.routers.gain.model import Figures, GainModel, packed, unpacked
from routing_service.routers.gain.text_features import NAMES, features, tokens
from routing_service.routers.gain.tfidf import Rows
from routing_service.settings import Settings

MINIBATCH = 1024
MINIBATCH_CHARACTERS = 4_000_000  # bounds the memory where prompts are long
EXPLAINED = 10

Vector = npt.NDArray[np.float64]

__all__ = ["Figures", "GainModel", "GainRouter", "encode", "minibatches"]


class GainRouter(SavedRouter):
    name = "gain"

    def __init__(
        self, model: GainModel, metadata: dict[str, Any] | None = None, encoder: Encoder | None = None
    ) -> None:
        """`encoder` is the one that the model's embedding part was fitted with, if it has one."""
        self.model = model
        self.encoder = encoder
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
        """Expected gain, in [-1, 1], and its standard deviation, both of shape (prompts,). ScoringError for a prompt of
        which neither the encoder nor the tensors make a number."""
        gain = np.empty(len(prompts), np.float32)
        std = np.empty(len(prompts), np.float32)
        for start, stop in minibatches(prompts):
            gain[start:stop], std[start:stop] = self._estimate(prompts[start:stop])
        broken = ~np.isfinite(gain + std)
        if broken.any():
            raise ScoringError(f"the {self.name} router gives no number for prompt {int(np.argmax(broken)) + 1}")
        return gain, std

    def _estimate(self, prompts: Sequence[str]) -> tuple[Vector, Vector]:
        figures = self.model.figures
        words = tokens(prompts)
        terms = self.model.vocabulary.rows(words)
        similar = self._similar(self.model.standard.points(features(prompts, words)))
        vectors = self._vectors(prompts)
        raw = figures.mean + terms.times(self._term_weight) + similar @ self.model.landmark_weight
        if self.model.embedding is not None:
            raw += vectors @ self.model.embedding.weight
        gain = np.clip(figures.scale * raw + figures.offset, -1, 1)
        std = figures.scale * figures.noise * np.sqrt(self._variance(terms, similar, vectors))
        return gain, np.minimum(std, 1)  # no number in [-1, 1] spreads more

    def _similar(self, points: Points) -> Points:
        return similarities(points, self.model.landmarks, self.model.figures.width, self.model.shape)

    def _vectors(self, prompts: Sequence[str]) -> Floats:
        """The encoder's vectors, shape (prompts, d); d is 0 without an encoder."""
        if self.encoder is None:
            return np.empty((len(prompts), 0), np.float32)
        return encode(self.encoder, prompts)

    def _variance(self, terms: Rows, similar: Points, vectors: Floats) -> Vector:
        """What the labels leave of the prior variance, in units of the noise."""
        figures, reduction = self.model.figures, self.model.reduction
        taken = similar[:, : len(reduction)] @ reduction
        prior: Any = figures.feature_kernel
        if self.model.embedding is not None:
            taken += vectors @ self.model.embedding.reduction
            prior = prior + self.model.embedding.kernel * np.square(vectors).sum(1)
        of_terms = np.bincount(terms.row, np.square(terms.value) * self._term_variance[terms.term], terms.count)
        of_terms[np.bincount(terms.row, minlength=terms.count) == 0] = figures.term_kernel  # no known word
        rest: Vector = np.maximum(prior - np.square(taken).sum(1), 0)
        return of_terms + rest

    def explain(self, prompt: str) -> dict[str, Any]:
        """The terms and features that move the estimate most, in gain.

        A term's contribution is exact, and so is that of the embedding as a whole, if there is one. A feature's is how
        far the gain would move if that feature alone were at the average of its format: not additive. (The artifact
        holds figures and a vocabulary, no prompts to show.)
        """
        model, scale = self.model, self.model.figures.scale
        words = tokens([prompt])
        values = features([prompt], words)
        terms = model.vocabulary.rows(words)
        of_terms = scale * terms.value * self._term_weight[terms.term]
        point = model.standard.points(values)
        known = np.arange(point.shape[1] - 1)
        others = np.repeat(point, len(known), axis=0)
        others[known, known] = 0
        here, there = (self._similar(points) @ model.landmark_weight for points in (point, others))
        of_features = scale * (here - there)
        gain, std = self.gains([prompt])
        embedding = model.embedding
        of_vector = (
            {} if embedding is None else {"embedding": scale * float((self._vectors([prompt]) @ embedding.weight)[0])}
        )
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
            **of_vector,
        }

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        tensors, metadata = packed(self.model)
        encoder = {} if self.encoder is None else {"encoder": identify(self.encoder)}
        return tensors, self.metadata | metadata | encoder

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        model = unpacked(saved, metadata)
        named = metadata.pop("encoder", None)
        encoder = None if model.embedding is None else saved_encoder(settings, named)
        if model.embedding is not None and encoder is not None and encoder.dimensions != len(model.embedding.weight):
            raise ArtifactError("the gain artifact's embedding_weight has another length than its encoder's vectors")
        return cls(model, metadata, encoder)


def encode(encoder: Encoder, prompts: Sequence[str]) -> Floats:
    """The prompts' vectors. ScoringError where one is not finite."""
    vectors = encoder.encode(prompts)
    if not np.isfinite(vectors).all():
        raise ScoringError("the encoder gives vectors that are not finite")
    return vectors


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
