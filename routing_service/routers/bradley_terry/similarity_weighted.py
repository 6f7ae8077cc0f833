"""RouteLLM's similarity-weighted ranking, exactly and for many prompts at once.

For every prompt q the Bradley-Terry problem over tiers is solved with comparison i weighing 10 ^ (1 + s_i / max s), s_i
the cosine of q and the comparison's prompt. What that problem depends on is linear in the weights, so for a minibatch
of prompts it is two matrix products: similarities (prompts x remembered prompts), then sums over tiers; a few batched
Newton steps from the unweighted strengths give the answer. Nothing is sampled or cut off.

Documented answers: a prompt that nothing is similar to (all cosines zero or below; an empty prompt) gets the unweighted
strengths. Where the comparisons do not determine the strengths (a tier that never lost or never won, one-sided data, a
single comparison), every tier gets a win over the reference and a loss, each as heavy as the most similar comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder, Floats, saved_encoder
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.base import Vector
from routing_service.routers.bradley_terry.rated_models import Place, RatedModels, RatedRouter
from routing_service.routers.bradley_terry.strengths import cells, is_regular, solve, steadied
from routing_service.routers.calibration import Calibration
from routing_service.settings import Settings

HIGHEST = 100.0  # the weight of the most similar comparison: 10 ^ (1 + 1)
LEAST_POWER = -6.0  # of s / max s: a smaller weight would count for nothing, or be no number
BLOCK = 8192  # remembered prompts that are unpacked at a time
SIMILARITIES_BYTES = 256 << 20  # bounds the prompts of a minibatch
MOST_AT_ONCE = 512
EXCERPT = 200  # characters
EXPLAINED = 10
EXPLAINED_OF_PROMPT = 3

__all__ = ["Memory", "SimilarityWeightedRouter", "excerpts_of"]


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered: P prompts and n comparisons of models on them, in the order of their prompts."""

    vectors: npt.NDArray[np.float16]  # (P, dimensions), unit
    prompt: npt.NDArray[np.int32]  # (n,)
    model_a: npt.NDArray[np.int16]  # (n,)
    model_b: npt.NDArray[np.int16]  # (n,)
    outcome: Floats  # (n,) of model_a, in [0, 1]
    weight: Floats  # (n,) above 0
    excerpt: npt.NDArray[np.uint8] | None  # prompts' beginnings in UTF-8, one after another; None: not kept
    excerpt_end: npt.NDArray[np.int64] | None  # (P,)

    def text(self, prompt: int) -> str | None:
        """A remembered prompt's beginning."""
        if self.excerpt is None or self.excerpt_end is None:
            return None
        start = int(self.excerpt_end[prompt - 1]) if prompt else 0
        return self.excerpt[start : int(self.excerpt_end[prompt])].tobytes().decode("utf-8", "replace")


def excerpts_of(prompts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """`excerpt` and `excerpt_end` of a Memory."""
    texts = [prompt[:EXCERPT].encode("utf-8", "replace") for prompt in prompts]
    return np.frombuffer(b"".join(texts), np.uint8), np.cumsum([len(text) for text in texts], dtype=np.int64)


class SimilarityWeightedRouter(RatedRouter):
    name = "similarity_weighted"

    def __init__(
        self,
        memory: Memory,
        rated: RatedModels,
        encoder: Encoder,
        settings: Settings,
        calibration: Calibration | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(rated, encoder, settings, calibration, metadata)
        self.memory = memory
        tiers = np.array(rated.tiers)
        self._wins = _PackedWins(memory, tiers, rated.tier_count)
        unweighted = self._wins.weighted(np.ones((1, len(memory.vectors)), np.float32))[0]
        self._regular = is_regular(unweighted)
        self._unweighted = solve(unweighted if self._regular else steadied(unweighted, 2.0))

    def strengths(self, vectors: Floats, places: Sequence[Place]) -> Vector:
        return self.tier_strengths(vectors)[:, [place.tier for place in places]]

    def tier_strengths(self, vectors: Floats) -> Vector:
        """For prompts of these vectors, shape (vectors, tiers), in log-odds; NaN for a vector that is not finite."""
        if vectors.shape[1] != self.memory.vectors.shape[1]:
            there, here = self.memory.vectors.shape[1], vectors.shape[1]
            raise ScoringError(f"the encoder gives vectors of {here} numbers, the router remembers such of {there}")
        # A row's sum is finite if all its numbers are; one product is several times as fast as looking at each.
        broken = ~np.isfinite(vectors @ np.ones(vectors.shape[1], np.float32))
        if broken.any():
            vectors = np.where(broken[:, None], np.float32(0), vectors)
        size = max(1, min(MOST_AT_ONCE, SIMILARITIES_BYTES // (4 * len(self.memory.vectors))))
        strengths = np.empty((len(vectors), self.rated.tier_count))
        buffer = np.empty((min(size, len(vectors)), len(self.memory.vectors)), np.float32)
        for start in range(0, len(vectors), size):
            part = vectors[start : start + size]
            weights = _to_weights(self._similarities(part, buffer[: len(part)]))
            wins = self._wins.weighted(weights)
            wins = wins if self._regular else steadied(wins, 2 * HIGHEST)
            strengths[start : start + size] = solve(wins, self._unweighted)
        strengths[broken] = np.nan
        return strengths

    def _similarities(self, vectors: Floats, out: Floats) -> Floats:
        for start in range(0, len(self.memory.vectors), BLOCK):
            block = _widened(self.memory.vectors[start : start + BLOCK])
            np.matmul(vectors, block.T, out=out[:, start : start + BLOCK])
        return out

    def explain(self, prompt: str) -> dict[str, Any]:
        """The comparisons on the most similar prompts, at most three on each and first those between the two models'
        tiers, and the tiers' strengths, in log-odds, for this prompt."""
        strong, weak = self.explained_pair()
        win_rate = float(self.win_rates([prompt], strong, weak)[0])
        vectors = self._encoder.encode([prompt])
        similarity = self._similarities(vectors, np.empty((1, len(self.memory.vectors)), np.float32))[0]
        weights = _to_weights(similarity[None].copy())[0]
        strength = self.tier_strengths(vectors)[0]
        tiers = {place.tier for place in self._places((strong, weak))}
        return {
            "router": self.name,
            "win_rate": win_rate,
            "strong": strong,
            "weak": weak,
            "comparisons": [
                self._comparison(row, similarity, weights)
                for prompt_number in np.argsort(-similarity, kind="stable")[:EXPLAINED].tolist()
                for row in self._rows(prompt_number, tiers)
            ][:EXPLAINED],
            "tiers": [
                {"tier": tier, "strength": float(value), "models": self.rated.in_tier(tier)}
                for tier, value in enumerate(strength)
            ],
        }

    def _rows(self, prompt: int, tiers: set[int]) -> list[int]:
        """The comparisons on a remembered prompt that say most of these tiers."""
        start, stop = np.searchsorted(self.memory.prompt, [prompt, prompt + 1]).tolist()
        sides = (self.memory.model_a, self.memory.model_b)
        missing = [len(tiers - {self.rated.tiers[side[row]] for side in sides}) for row in range(start, stop)]
        return [start + int(row) for row in np.argsort(missing, kind="stable")[:EXPLAINED_OF_PROMPT]]

    def _comparison(self, row: int, similarity: Floats, weights: Floats) -> dict[str, Any]:
        memory, names = self.memory, self.rated.names
        prompt = int(memory.prompt[row])
        return {
            "prompt_number": prompt,
            "prompt": memory.text(prompt),
            "model_a": names[memory.model_a[row]],
            "model_b": names[memory.model_b[row]],
            "outcome": float(memory.outcome[row]),
            "similarity": float(similarity[prompt]),
            "weight": float(weights[prompt] * memory.weight[row]),
        }

    def tensors(self) -> artifact.Tensors:
        return {name: value for name in Memory.__slots__ if (value := getattr(self.memory, name)) is not None}

    @classmethod
    def unpack(cls, saved: artifact.Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        rated = RatedModels.from_dict({key: metadata.pop(key, None) for key in ("models", "pair")})
        calibration = Calibration.from_dict(metadata.pop("calibration", None))
        memory = _memory(saved, len(rated.names))
        encoder = saved_encoder(settings, metadata.pop("encoder", None))
        return cls(memory, rated, encoder, settings, calibration, metadata)


def _widened(values: npt.NDArray[np.float16]) -> Floats:
    """As float32, exactly; finite. By shifting bits: numpy converts one number at a time, five times as slowly."""
    bits = values.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # sign, five bits of exponent, ten of mantissa
    wide: Floats = bits.view(np.float32)
    wide *= np.float32(2.0**112)  # from float16's exponents to float32's
    return wide


def _to_weights(similarities: Floats) -> Floats:
    """10 ^ (1 + s / max s), in place; all alike where no s is above 0."""
    highest = similarities.max(axis=1, keepdims=True)
    near = highest > 0
    np.divide(similarities, np.where(near, highest, 1), out=similarities)
    np.maximum(similarities, LEAST_POWER, out=similarities)
    similarities *= np.float32(np.log(10))
    np.exp(similarities, out=similarities)
    similarities *= np.float32(10)
    similarities[~near[:, 0]] = 1
    return similarities


class _PackedWins:
    """Each remembered prompt's share of the tiers' wins: sparse, since few tiers meet on it."""

    def __init__(self, memory: Memory, tiers: npt.NDArray[np.int64], count: int) -> None:
        self._size, self._prompts = count + 1, len(memory.vectors)
        outcome, weight = memory.outcome.astype(float), 2 * memory.weight.astype(float)
        won, lost = cells(tiers[memory.model_a], tiers[memory.model_b], count)
        self._cells, column = np.unique(np.concatenate([won, lost]), return_inverse=True)  # those that occur
        value = np.concatenate([weight * outcome, weight * (1 - outcome)])
        key = np.tile(memory.prompt.astype(np.int64), 2) * len(self._cells) + column
        key, place = np.unique(key[value > 0], return_inverse=True)
        self._value = np.bincount(place, value[value > 0]).astype(np.float32)
        row, column = np.divmod(key, len(self._cells))
        self._column = column.astype(np.int32)
        self._start = np.searchsorted(row, np.arange(0, self._prompts + BLOCK, BLOCK))
        self._row = (row % BLOCK).astype(np.int32)

    def weighted(self, weights: Floats) -> Vector:
        """The wins, shape (queries, count + 1, count + 1), for weights of the remembered prompts (queries, P)."""
        total = np.zeros((len(weights), len(self._cells)))
        for block, start in enumerate(range(0, self._prompts, BLOCK)):
            entries = slice(*self._start[block : block + 2])
            dense = np.zeros((min(BLOCK, self._prompts - start), len(self._cells)), np.float32)
            dense[self._row[entries], self._column[entries]] = self._value[entries]
            total += weights[:, start : start + BLOCK] @ dense
        wins = np.zeros((len(weights), self._size**2))
        wins[:, self._cells] = total
        return wins.reshape(-1, self._size, self._size)


def _memory(saved: artifact.Artifact, models: int) -> Memory:
    vectors = saved.tensor("vectors", np.float16, -1, -1)
    prompt = saved.tensor("prompt", np.int32, -1)
    n = len(prompt)
    model_a, model_b = (saved.tensor(name, np.int16, n) for name in ("model_a", "model_b"))
    outcome, weight = (saved.tensor(name, np.float32, n) for name in ("outcome", "weight"))
    in_order = n > 0 and prompt[0] >= 0 and (np.diff(prompt) >= 0).all() and prompt[-1] < len(vectors)
    named = all(((column >= 0) & (column < models)).all() for column in (model_a, model_b))
    if not (in_order and named and (model_a != model_b).all()):
        raise ArtifactError("the similarity_weighted artifact's comparisons do not fit its prompts and models")
    if not (((outcome >= 0) & (outcome <= 1)).all() and (weight > 0).all()):
        raise ArtifactError("the similarity_weighted artifact's outcomes or weights are out of bounds")
    excerpt = end = None
    if "excerpt" in saved.tensors:
        excerpt = saved.tensor("excerpt", np.uint8, -1)
        end = saved.tensor("excerpt_end", np.int64, len(vectors))
        if end[0] < 0 or (np.diff(end) < 0).any() or end[-1] != len(excerpt):
            raise ArtifactError("the similarity_weighted artifact's excerpts do not fit its prompts")
    return Memory(vectors, prompt, model_a, model_b, outcome, weight, excerpt, end)
