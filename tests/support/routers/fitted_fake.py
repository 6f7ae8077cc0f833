"""A method for tests of what stands around methods: its routers know how often each model is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np

from routing_service.errors import ScoringError
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Pair, PairwiseRouter, Vector
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.fit.calibration import calibrated
from training.progress import Progress

ANY_PAIR = True


@dataclass(frozen=True, slots=True)
class FakeOptions:
    trouble: str = ""  # what the fit raises
    steps: int = 3


class FakeRouter(PairwiseRouter):
    name: ClassVar[str] = "fake"

    def __init__(self, preferred: dict[str, float], metadata: dict[str, Any]) -> None:
        self.preferred, self.metadata = preferred, metadata

    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        for name in {name for pair in pairs for name in pair} - set(self.preferred):
            raise ScoringError(f"the fake router does not know {name}")
        rates = [(1 + self.preferred[a] - self.preferred[b]) / 2 for a, b in pairs]
        return np.tile(np.array(rates, float), (len(prompts), 1))

    def explain(self, prompt: str) -> dict[str, Any]:
        return {"router": self.name, "win_rate": 0.5}

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        names = list(self.preferred)
        return {"preferred": np.array([self.preferred[name] for name in names])}, self.metadata | {"names": names}

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        names = saved.metadata["names"]
        actual = saved.tensor("preferred", np.float64, len(names)).tolist()
        return cls(dict(zip(names, actual, strict=True)), saved.metadata)


def fit(
    comparisons: Comparisons, *, seed: int, options: FakeOptions, settings: Settings, progress: Progress
) -> FakeRouter:
    with progress("fitting", options.steps) as advance:
        for _ in range(options.steps):
            advance(1)
    troubles = {"torch": ModuleNotFoundError("none", name="torch"), "disk": OSError(28, "No space left on device")}
    if options.trouble:
        raise troubles[options.trouble]
    models = np.r_[comparisons.model_a, comparisons.model_b]
    outcome = np.r_[comparisons.outcome, 1 - comparisons.outcome]
    preferred = {
        name: float(outcome[models == number].mean())
        for number, name in enumerate(comparisons.models)
        if (models == number).any()
    }
    rows, of_pair = comparisons.of_pair()
    _, measured = calibrated(np.full(len(rows), 0.5), of_pair, comparisons.weight[rows], seed=seed)
    data = {"fingerprint": comparisons.fingerprint(), "rows": len(comparisons)}
    metrics = {"calibration": measured}
    return FakeRouter(preferred, {"seed": seed, "options": asdict(options), "data": data, "metrics": metrics})
