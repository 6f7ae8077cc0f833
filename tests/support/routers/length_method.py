"""A method of the tests, router and fit: it knows a prompt's length and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Pair, PairwiseRouter, Vector
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.progress import Progress


class LengthRouter(PairwiseRouter):
    """A method of the tests: the longer a prompt, the more often the model whose name is longer wins."""

    name = "lengths"

    def __init__(self, slope: float, metadata: dict[str, Any] | None = None) -> None:
        self.slope = slope
        self.metadata = metadata or {}

    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        length = np.array([len(prompt) for prompt in prompts], float)[:, None]
        longer = np.array([np.sign(len(a) - len(b)) for a, b in pairs], float)
        rates: Vector = 0.5 + longer * np.minimum(self.slope * length / 100, 1) / 2
        return rates

    def explain(self, prompt: str) -> dict[str, Any]:
        return {"router": self.name, "win_rate": float(self.win_rates([prompt], "strong", "weak")[0]), "long": True}

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        return {"slope": np.array([self.slope], np.float32)}, self.metadata

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        if not saved.torch_tensor("slope").shape == (1,):
            raise ArtifactError("no slope")
        return cls(float(saved.tensor("slope", np.float32, 1)[0]), saved.metadata)


@dataclass(frozen=True, slots=True)
class LengthOptions:
    steep: bool = True


def fit(
    comparisons: Comparisons, *, seed: int, options: LengthOptions, settings: Settings, progress: Progress
) -> LengthRouter:
    return LengthRouter(0.5 if options.steep else 0.0, {"seed": seed, "rows": len(comparisons)})
