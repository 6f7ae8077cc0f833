"""A fake encoder, and comparisons of models whose strengths depend on the topic."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import pytest

from routing_service.embedding import registry
from routing_service.embedding.registry import Encoder, Floats, Progress
from routing_service.settings import Settings
from training.data.comparisons import Comparisons, Pair
from training.fit import matrix_factorization, similarity_weighted
from training.importers import matrix_factorization as importer

TOPICS = ("algebra ring field ideal", "colour paint shade brush")


class WordEncoder:
    """The sum of a random vector for every word, of length 1: texts that share words are alike."""

    def __init__(self, dimensions: int = 32, identity: str = "words") -> None:
        self.spec = f"words@{dimensions}"
        self.identity = identity
        self.dimensions = dimensions
        self.encoded = 0

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        self.encoded += len(texts)
        vectors = np.array([self._vector(text) for text in texts], np.float32).reshape(-1, self.dimensions)
        if progress:
            progress(len(texts))
        return vectors

    def _vector(self, text: str) -> Floats:
        words = [self._word(word) for word in text.split()[:50]]
        total = np.sum(words, axis=0) if words else np.zeros(self.dimensions)
        unit: Floats = (total / (np.linalg.norm(total) or 1)).astype(np.float32)
        return unit

    def _word(self, word: str) -> Floats:
        seed = int.from_bytes(sha256(word.encode("utf-8", "replace")).digest()[:8], "big")
        drawn: Floats = np.random.default_rng(seed).normal(size=self.dimensions).astype(np.float32)
        return drawn


class BrokenEncoder(WordEncoder):
    """Gives no number for the texts that say so."""

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        vectors = super().encode(texts, progress)
        vectors[["broken" in text for text in texts]] = np.nan
        return vectors


def use(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    """Whoever asks for an encoder gets this one."""

    def make_encoder(settings: Settings, spec: str | None = None) -> Encoder:
        return encoder

    for module in (registry, similarity_weighted, matrix_factorization, importer):
        monkeypatch.setattr(module, "make_encoder", make_encoder)


def comparisons(
    rows: Sequence[tuple[str, str, str, float]], *, pair: Pair | None = None, weight: Sequence[float] | None = None
) -> Comparisons:
    """Rows of prompt, model_a, model_b, outcome."""
    texts, first, second = ([str(row[place]) for row in rows] for place in range(3))
    prompts, models = list(dict.fromkeys(texts)), list(dict.fromkeys([*first, *second]))
    a, b = (np.array([models.index(name) for name in side], np.int32) for side in (first, second))
    prompt = np.array([prompts.index(text) for text in texts], np.int32)
    outcome = np.array([row[3] for row in rows], float)
    weights = np.ones(len(rows)) if weight is None else np.array(weight, float)
    return Comparisons(prompts, models, prompt, a, b, outcome, weights, ["golden"] * len(rows), pair)


def by_topic(n: int, models: int = 4, seed: int = 0, *, pair: Pair | None = None) -> Comparisons:
    """Better models (m0 is the worst) mostly win on algebra; on colours all are alike."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        topic = int(draw.integers(2))
        words = " ".join(draw.choice(TOPICS[topic].split(), 3))
        a, b = (int(model) for model in draw.choice(models, 2, replace=False))
        rate = 1 / (1 + np.exp(2.0 * (b - a))) if topic == 0 else 0.5
        outcome = float(draw.choice([draw.random() < rate, 0.5], p=[0.8, 0.2]))
        rows.append((f"{words} {number}", f"m{a}", f"m{b}", outcome))
    return comparisons(rows, pair=pair)
