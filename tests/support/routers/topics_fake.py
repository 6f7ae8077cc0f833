"""A method whose fit takes no time: win rates by whether a prompt is on rings. For tests of what stands around fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Pair, PairwiseRouter, Vector
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.progress import Progress

PLACES = {"topics": "tests.support.routers.topics_fake:TopicsOptions"}  # for training.fit.methods.METHODS
CLASSES = {"topics": "tests.support.routers.topics_fake:TopicsRouter"}  # for routing_service.routers.registry.METHODS


@dataclass(frozen=True, slots=True)
class TopicsOptions:
    pass


class TopicsRouter(PairwiseRouter):
    name: ClassVar[str] = "topics"

    def __init__(self, rates: Vector, metadata: dict[str, Any]) -> None:
        self.rates, self.metadata = rates, metadata

    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        rates: Vector = self.rates[_on_rings(prompts)][:, None].repeat(len(pairs), axis=1)
        return rates

    def explain(self, prompt: str) -> dict[str, Any]:
        return {"router": self.name, "win_rate": float(self.rates[_on_rings([prompt])][0])}

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        return {"rates": self.rates}, self.metadata

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        return cls(saved.tensor("rates", np.float64, 2), saved.metadata)


def fit(
    comparisons: Comparisons, *, seed: int, options: TopicsOptions, settings: Settings, progress: Progress
) -> TopicsRouter:
    labels = comparisons.labels()
    place = _on_rings(labels.prompts)
    rates = np.array([(1 + labels.gain[place == one].mean()) / 2 if (place == one).any() else 0.5 for one in (0, 1)])
    return TopicsRouter(rates, {"seed": seed, "data": {"fingerprint": comparisons.fingerprint()}})


def _on_rings(prompts: Sequence[str]) -> Any:
    return np.array([any(word in prompt for word in ("ring", "field", "ideal")) for prompt in prompts], int)
