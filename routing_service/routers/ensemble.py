"""The ensemble: a calibrated mean of several routers' win rates, each member with its weight.

The standard deviation is that of a mixture of the members: what they say they are off by, and how far they lie apart.
The artifact holds the members' own tensors under their number, and their metadata; they are rebuilt from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Array, Artifact, SavedTensors, Tensors, parsed
from routing_service.routers.base import Floats, Router, SavedRouter
from routing_service.routers.calibration import EDGE, Calibration
from routing_service.routers.registry import METHODS, router_class
from routing_service.settings import Settings

MAX_MEMBERS = 32
UNCALIBRATED = Calibration()

Vector = npt.NDArray[np.float64]


class Packed(Router, Protocol):
    """A router that an ensemble can hold: one whose artifact is tensors and metadata."""

    def pack(self) -> tuple[Tensors, dict[str, Any]]: ...

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self: ...


@dataclass(frozen=True, slots=True)
class Member:
    router: Packed
    weight: float  # at least 0; those of all members add up to 1


class EnsembleRouter(SavedRouter):
    name = "ensemble"

    def __init__(
        self,
        members: Sequence[Member],
        calibration: Calibration = UNCALIBRATED,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.members = tuple(members)
        self.calibration = calibration
        self.metadata = metadata or {}
        self._weights = np.array([member.weight for member in members])

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        scores = [member.router.score(prompts, models) for member in self.members]
        rates = np.array([quality for quality, _ in scores], np.float64)
        own = np.array([spread for _, spread in scores], np.float64)
        mean = self._mean(rates)
        spread = np.sqrt(self._mean(np.square(own) + np.square(rates - mean))) * self._slope(mean)
        quality = self.calibration.apply(mean)
        quality[:, :1], spread[:, :1] = 0.5, 0  # the cheapest model against itself: nothing to calibrate
        return quality.astype(np.float32), np.minimum(spread, 1).astype(np.float32)

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        rates = [member.router.win_rates(prompts, strong, weak) for member in self.members]
        calibrated: Floats = self.calibration.apply(self._mean(np.array(rates, np.float64))).astype(np.float32)
        return calibrated

    def _mean(self, of_members: Vector) -> Vector:
        mean: Vector = np.tensordot(self._weights, of_members, axes=1)
        return mean

    def _slope(self, rates: Vector) -> Vector:
        """How far calibration moves a win rate that is off by a little."""
        clipped = np.clip(rates, EDGE, 1 - EDGE)
        calibrated = self.calibration.apply(clipped)
        slope: Vector = self.calibration.scale * calibrated * (1 - calibrated) / (clipped * (1 - clipped))
        return slope

    def explain(self, prompt: str) -> dict[str, Any]:
        """Every member's own explanation beside its weight."""
        reasons = [member.router.explain(prompt) for member in self.members]
        mean = self._mean(np.array([why["win_rate"] for why in reasons], np.float64))
        return {
            "router": self.name,
            "win_rate": float(self.calibration.apply(mean)),
            "members": [{"weight": m.weight} | why for m, why in zip(self.members, reasons, strict=True)],
        }

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        tensors: Tensors = {}
        members = []
        for number, member in enumerate(self.members):
            own, metadata = member.router.pack()
            tensors |= {f"{number}.{name}": tensor for name, tensor in own.items()}
            members.append({"kind": member.router.name, "weight": member.weight, "metadata": metadata})
        return tensors, self.metadata | {"members": members, "calibration": self.calibration.as_dict()}

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        metadata = dict(saved.metadata)
        calibration = Calibration.from_dict(metadata.pop("calibration", None))
        described = _described(metadata.pop("members", None))
        members = []
        for number, member in enumerate(described):
            own = Artifact(member.kind, _Part(saved.tensors, f"{number}."), member.metadata, saved.digest)
            router = cast(type[Packed], router_class(member.kind)).unpack(own, settings)
            members.append(Member(router, member.weight))
        return cls(members, calibration, metadata)


class _Part(SavedTensors):
    """One member's tensors, by the names it gave them."""

    def __init__(self, whole: SavedTensors, prefix: str) -> None:
        self.file = whole.file
        self.sizes = {name.removeprefix(prefix): size for name, size in whole.sizes.items() if name.startswith(prefix)}
        self._whole = whole
        self._prefix = prefix

    def __getitem__(self, name: str) -> Array:
        return self._whole[self._prefix + name]

    @cached_property
    def for_torch(self) -> Any:
        return _TorchPart(self._whole.for_torch, self._prefix)


@dataclass(frozen=True, slots=True)
class _TorchPart:
    opened: Any
    prefix: str

    def get_tensor(self, name: str) -> Any:
        return self.opened.get_tensor(self.prefix + name)

    def get_slice(self, name: str) -> Any:
        return self.opened.get_slice(self.prefix + name)


@dataclass(frozen=True, slots=True)
class _Described:
    """What the metadata says of a member."""

    kind: str
    weight: Annotated[float, Field(ge=0, le=1)]
    metadata: dict[str, Any]


def _described(members: Any) -> list[_Described]:
    """The members that the metadata describes. ArtifactError for what they cannot be."""
    if not isinstance(members, list) or not 1 <= len(members) <= MAX_MEMBERS:
        raise ArtifactError(f"the ensemble artifact's members are not a list of 1 to {MAX_MEMBERS}")
    described = [parsed(_Described, member, "member of the ensemble artifact") for member in members]
    for member in described:
        if member.kind not in METHODS or member.kind == EnsembleRouter.name:
            raise ArtifactError(f"a member of the ensemble artifact cannot be of kind {member.kind[:80]!r}")
    if not np.isclose(sum(member.weight for member in described), 1):
        raise ArtifactError("the weights of the ensemble artifact's members do not add up to 1")
    return described
