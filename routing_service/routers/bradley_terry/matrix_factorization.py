"""RouteLLM's matrix factorisation: a vector for every model, scored against the prompt's vector.

delta(m, q) = classifier . (v_m * (projection q + bias)); P(a is preferred over b) = sigmoid(delta(a, q) - delta(b, q)).
It is linear in q: a pair of models folds into one vector and one number, and a prompt costs one dot product. A model
known by its tier alone has the mean vector of that tier's models, hence their mean delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from routing_service.embedding.registry import Encoder, Floats, saved_encoder
from routing_service.errors import ScoringError
from routing_service.routers import artifact
from routing_service.routers.base import Vector
from routing_service.routers.bradley_terry.rated_models import Place, RatedModels, RatedRouter
from routing_service.routers.calibration import Calibration
from routing_service.settings import Settings

EXPLAINED = 10

__all__ = ["Factors", "MatrixFactorizationRouter"]


@dataclass(frozen=True, slots=True)
class Factors:
    """M models, k factors, prompts' vectors of d numbers."""

    models: Floats  # (M, k) of length 1
    projection: Floats  # (k, d)
    bias: Floats  # (k,)
    classifier: Floats  # (k,)
    typical: Floats  # (d,) the mean vector of the prompts that were fitted on: what `explain` compares with


class MatrixFactorizationRouter(RatedRouter):
    name = "matrix_factorization"

    def __init__(
        self,
        factors: Factors,
        rated: RatedModels,
        encoder: Encoder,
        settings: Settings,
        calibration: Calibration | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(rated, encoder, settings, calibration, metadata)
        self.factors = factors
        weighted: Vector = factors.models.astype(np.float64) * factors.classifier
        # One row a model, then one a tier: what of a prompt's vector becomes its delta, and what does not depend on it.
        tiers = np.stack([weighted[np.equal(rated.tiers, tier)].mean(axis=0) for tier in range(rated.tier_count)])
        rows = np.concatenate([weighted, tiers])
        self._slope: Vector = rows @ factors.projection.astype(np.float64)
        self._constant: Vector = rows @ factors.bias.astype(np.float64)

    def strengths(self, vectors: Floats, places: Sequence[Place]) -> Vector:
        """The deltas."""
        return self._deltas(vectors, self._slope[self._rows(places)], self._constant[self._rows(places)])

    def vector_win_rates(self, vectors: Floats, pairs: Sequence[tuple[Place, Place]]) -> Vector:
        first, second = (self._rows([pair[side] for pair in pairs]) for side in (0, 1))
        slope, constant = self._slope[first] - self._slope[second], self._constant[first] - self._constant[second]
        rates: Vector = 1 / (1 + np.exp(-np.clip(self._deltas(vectors, slope, constant), -700, 700)))
        return rates

    def explain(self, prompt: str) -> dict[str, Any]:
        """The models that this prompt favours or disfavours most: their strength, and that for a typical prompt."""
        strong, weak = self.explained_pair()
        places = [Place(tier, number) for number, tier in enumerate(self.rated.tiers)]
        win_rate = float(self.win_rates([prompt], strong, weak)[0])
        here = self.strengths(self._encoder.encode([prompt]), places)[0]
        usual = self.strengths(self.factors.typical[None], places)[0]
        shift = (here - here.mean()) - (usual - usual.mean())
        of_typical = self.vector_win_rates(self.factors.typical[None], [self._places((strong, weak))])
        return {
            "router": self.name,
            "win_rate": win_rate,
            "typical_win_rate": float(self.calibration.apply(of_typical, self.sides([(strong, weak)]))[0, 0]),
            "strong": strong,
            "weak": weak,
            "models": [
                {
                    "model": self.rated.names[number],
                    "tier": self.rated.tiers[number],
                    "strength": float(here[number] - here.mean()),
                    "typical_strength": float(usual[number] - usual.mean()),
                }
                for number in np.argsort(-np.abs(shift), kind="stable")[:EXPLAINED].tolist()
            ],
        }

    def _deltas(self, vectors: Floats, slope: Vector, constant: Vector) -> Vector:
        if vectors.shape[1] != slope.shape[1]:
            here, there = vectors.shape[1], slope.shape[1]
            raise ScoringError(f"the encoder gives vectors of {here} numbers, the router was fitted on such of {there}")
        with np.errstate(invalid="ignore"):  # of vectors that are not finite
            deltas: Vector = vectors @ slope.T.astype(np.float32) + constant
        deltas[~np.isfinite(deltas)] = np.nan
        return deltas

    def _rows(self, places: Sequence[Place]) -> list[int]:
        models = len(self.rated.names)
        return [models + place.tier if place.model is None else place.model for place in places]

    def tensors(self) -> artifact.Tensors:
        return {name: getattr(self.factors, name) for name in Factors.__slots__}

    @classmethod
    def unpack(cls, saved: artifact.Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        rated = RatedModels.from_dict({key: metadata.pop(key, None) for key in ("models", "pair")})
        calibration = Calibration.from_dict(metadata.pop("calibration", None))
        projection = saved.tensor("projection", np.float32, -1, -1)
        k, d = projection.shape
        factors = Factors(
            saved.tensor("models", np.float32, len(rated.names), k),
            projection,
            saved.tensor("bias", np.float32, k),
            saved.tensor("classifier", np.float32, k),
            saved.tensor("typical", np.float32, d),
        )
        encoder = saved_encoder(settings, metadata.pop("encoder", None))
        return cls(factors, rated, encoder, settings, calibration, metadata)
