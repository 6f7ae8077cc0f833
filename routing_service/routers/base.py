"""What a router is: an estimate of the quality of each candidate model's answer to a prompt.

`Router` is the interface. `SavedRouter` gives one its artifact; `PairwiseRouter` gives a method that compares two
models the rest of it: calibration, the view of many models, and the check that no estimate is NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers import artifact
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.calibration import Calibration
from routing_service.settings import Settings

Floats = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]
Pair = tuple[str, str]

__all__ = ["Floats", "Pair", "PairwiseRouter", "Router", "SavedRouter"]


class Router(Protocol):
    """Stateless towards its callers: the same prompt always gets the same estimate."""

    @property
    def name(self) -> str:
        """The method's name, as batches name it."""

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        """Quality and its standard deviation, each of shape (prompts, models), in [0, 1].

        Relative to the cheapest model, which comes first: its column is 0.5, and column j is the probability that
        model j's answer is preferred over the cheapest's, ties as half. ScoringError where there is no such estimate:
        a model that the router cannot place, an encoder that gives no finite vector.
        """

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        """The two-model view, shape (prompts,): the probability that strong's answer is preferred, ties as half."""

    def explain(self, prompt: str) -> dict[str, Any]:
        """Why this prompt gets its estimate, as JSON: at least `router` and `win_rate`."""

    def save(self, directory: Path) -> None:
        """Write the artifact that `load` rebuilds this router from. ArtifactError if it cannot be written."""

    @classmethod
    def load(cls, directory: Path, settings: Settings | None = None) -> Self:
        """Rebuild a saved router. ArtifactError for whatever is wrong with the artifact."""


class SavedRouter(ABC):
    """A router that is tensors and metadata. Its name is the kind of its artifact."""

    name: ClassVar[str]
    metadata: dict[str, Any]  # seed, data and metrics: saved with the router

    @abstractmethod
    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        """What the artifact holds: the tensors, and metadata as JSON (`self.metadata` and the method's own keys)."""

    @classmethod
    @abstractmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        """Rebuild the router from what `pack` gave. ArtifactError for whatever is wrong with it."""

    def save(self, directory: Path) -> None:
        artifact.write(directory, self.name, *self.pack())

    @classmethod
    def load(cls, directory: Path, settings: Settings | None = None) -> Self:
        saved = artifact.read(directory)
        if saved.kind != cls.name:
            raise ArtifactError(f"{directory} holds a router of kind {saved.kind[:80]!r}, not {cls.name!r}")
        return cls.unpack(saved, settings or Settings())


class PairwiseRouter(SavedRouter):
    """A router that compares two models at a time."""

    calibration: Calibration = Calibration()

    @abstractmethod
    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        """Before calibration, shape (prompts, pairs): the probability that a pair's first model's answer is preferred.

        Models are named as the caller names them. Memory is bounded by minibatches, however many prompts there are.
        """

    def sides(self, pairs: Sequence[Pair]) -> list[int]:
        """`side` of each pair for `Calibration.apply`: a router that knows but one pair takes the first for strong."""
        return [1] * len(pairs)

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        quality = np.full((len(prompts), len(models)), 0.5, dtype=np.float32)
        spread = np.zeros_like(quality)
        if len(models) > 1:
            quality[:, 1:] = self._rates(prompts, [(model, models[0]) for model in models[1:]])
            spread[:, 1:] = self.calibration.std
        return quality, spread

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        rates: Floats = self._rates(prompts, [(strong, weak)])[:, 0]
        return rates

    def _rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Floats:
        raw = self.raw_win_rates(prompts, pairs) if len(prompts) else np.empty((0, len(pairs)))
        if not np.isfinite(raw).all():
            line = int(np.flatnonzero(~np.isfinite(raw).all(axis=1))[0])
            raise ScoringError(f"the {self.name} router gives no number for prompt {line + 1} of {len(prompts)}")
        rates: Floats = self.calibration.apply(raw, self.sides(pairs)).astype(np.float32)
        return rates
