"""The models that a fitted router knows, each with its tier and rating, and how a caller's model is found among them.

A model that the router never saw takes part by its tier, `models.X.tier` of the configuration: 0 is the weakest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from routing_service.embedding.registry import Encoder, Floats, identify
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers.artifact import Tensors, parsed
from routing_service.routers.base import Pair, PairwiseRouter, Vector
from routing_service.routers.calibration import Calibration
from routing_service.settings import ModelSettings, Settings

ROLES = ("strong", "weak")
LISTED = 12
MINIBATCH = 4096  # prompts whose vectors are in memory

__all__ = ["Place", "RatedModels", "RatedRouter"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a caller's model stands; `model` is its number, None for one known by its tier alone."""

    tier: int
    model: int | None = None


@dataclass(frozen=True, slots=True)
class _SavedModel:
    """What metadata.json says of a model."""

    name: str
    tier: int
    rating: Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class _Saved:
    models: Annotated[list[_SavedModel], Field(min_length=2)]
    pair: Pair | None


@dataclass(frozen=True, slots=True)
class RatedModels:
    """`tiers` from 0, the weakest, without gaps; `ratings` in log-odds; `pair`: the strong and the weak model, if any
    were named."""

    names: tuple[str, ...]
    tiers: tuple[int, ...]
    ratings: tuple[float, ...]
    pair: Pair | None = None

    @property
    def tier_count(self) -> int:
        return max(self.tiers) + 1

    def place(self, name: str, settings: Settings, *, stronger: bool) -> Place:
        """Where the model that the caller calls `name` stands.

        By what `models.X.rated_as` says, the name itself or the name at the upstream; by the tier that is configured;
        by the words strong and weak; and, where the router knows just two models, by position: `stronger` tells which
        of the two a model is that cannot be told otherwise. ScoringError where none of these helps.
        """
        configured = settings.models.get(name)
        number = self._number(name, configured)
        if number is not None:
            return Place(self.tiers[number], number)
        if configured is not None and configured.tier is not None:
            return self._by_tier(name, configured.tier)
        if name in ROLES:
            place = self._by_role(name, settings)
            if place is not None:
                return place
        if len(self.names) == 2:
            number = self.usual_pair()[0 if stronger else 1]
            return Place(self.tiers[number], number)
        raise ScoringError(self._unknown(name, configured))

    def usual_pair(self) -> tuple[int, int]:
        """The strong and the weak model's numbers where nobody names one: the pair, else the best and the worst."""
        if self.pair is not None and set(self.pair) <= set(self.names):
            return self.names.index(self.pair[0]), self.names.index(self.pair[1])
        return int(np.argmax(self.ratings)), int(np.argmin(self.ratings))

    def in_tier(self, tier: int) -> list[str]:
        return [name for name, its in zip(self.names, self.tiers, strict=True) if its == tier]

    def _number(self, name: str, configured: ModelSettings | None) -> int | None:
        calls = (configured.rated_as, name, configured.name) if configured else (name,)
        for call in calls:
            if call is None:
                continue
            if call in self.names:
                return self.names.index(call)
            alike = [number for number, known in enumerate(self.names) if _plain(known) == _plain(call)]
            if len(alike) == 1:
                return alike[0]
        return None

    def _by_tier(self, name: str, tier: int) -> Place:
        if tier >= self.tier_count:
            raise ScoringError(
                f"models.{name}.tier is {tier}, and this router has the tiers 0 (weakest) to {self.tier_count - 1}"
            )
        return Place(tier)

    def _by_role(self, role: str, settings: Settings) -> Place | None:
        candidates = settings.candidates
        if self.pair is not None:
            number = self.usual_pair()[ROLES.index(role)]
            return Place(self.tiers[number], number)
        if len(candidates) < 2:
            return None
        stronger = role == ROLES[0]
        named = candidates[-1 if stronger else 0]
        return None if named in ROLES else self.place(named, settings, stronger=stronger)

    def _unknown(self, name: str, configured: ModelSettings | None) -> str:
        shown = sorted(self.names)[:LISTED]
        known = ", ".join([*shown, f"and {len(self.names) - LISTED} more"] if len(self.names) > LISTED else shown)
        if name in ROLES:
            return (
                f"the router was fitted for no pair of models, so it cannot say which is the {name} one of those it "
                f"knows ({known}): name them as routing.candidates, or fit it for a pair"
            )
        also = f" (rated_as {configured.rated_as!r})" if configured and configured.rated_as else ""
        return (
            f"the router does not know the model {name!r}{also}. It knows {known}. Say which of these it is "
            f"(models.{name}.rated_as), or which tier it belongs to (models.{name}.tier, 0 the weakest to "
            f"{self.tier_count - 1})"
        )

    def as_dict(self) -> dict[str, Any]:
        models = zip(self.names, self.tiers, self.ratings, strict=True)
        return {
            "models": [{"name": name, "tier": tier, "rating": rating} for name, tier, rating in models],
            "pair": list(self.pair) if self.pair else None,
        }

    @classmethod
    def from_dict(cls, saved: Any) -> Self:
        """ArtifactError unless `saved` is what `as_dict` gave."""
        listed = parsed(_Saved, saved, "artifact's list of models")
        names, tiers = tuple(model.name for model in listed.models), tuple(model.tier for model in listed.models)
        if len(set(names)) != len(names):
            raise ArtifactError("the artifact's models are not two or more different names")
        if set(tiers) != set(range(len(set(tiers)))):
            raise ArtifactError("the artifact's tiers are not numbered from 0 without gaps")
        if listed.pair is not None and not set(listed.pair) <= set(names):
            raise ArtifactError("the artifact's pair is not two of its models")
        return cls(names, tiers, tuple(model.rating for model in listed.models), listed.pair)


class RatedRouter(PairwiseRouter):
    """A router of prompts' vectors and rated models: any pair of them, or of their tiers."""

    name: ClassVar[str]

    def __init__(
        self,
        rated: RatedModels,
        encoder: Encoder,
        settings: Settings,
        calibration: Calibration | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.rated = rated
        self.calibration = calibration or Calibration()
        self.metadata = metadata or {}
        self._encoder = encoder
        self._settings = settings

    @abstractmethod
    def strengths(self, vectors: Floats, places: Sequence[Place]) -> Vector:
        """For prompts of these vectors, shape (vectors, places), in log-odds: only their differences mean anything.
        NaN for a vector that is not finite."""

    def vector_win_rates(self, vectors: Floats, pairs: Sequence[tuple[Place, Place]]) -> Vector:
        """Before calibration, shape (vectors, pairs): the probability that a pair's first place is preferred."""
        places = list(dict.fromkeys(place for pair in pairs for place in pair))
        strength = self.strengths(vectors, places)
        first, second = ([places.index(pair[side]) for pair in pairs] for side in (0, 1))
        rates: Vector = 1 / (1 + np.exp(strength[:, second] - strength[:, first]))
        return rates

    @abstractmethod
    def tensors(self) -> Tensors:
        """What the artifact holds of the method."""

    def raw_win_rates(self, prompts: Sequence[str], pairs: Sequence[Pair]) -> Vector:
        places = [self._places(pair) for pair in pairs]
        rates = np.empty((len(prompts), len(pairs)))
        for start in range(0, len(prompts), MINIBATCH):
            part = slice(start, min(start + MINIBATCH, len(prompts)))
            rates[part] = self.vector_win_rates(self._encoder.encode(prompts[part]), places)
        return rates

    def sides(self, pairs: Sequence[Pair]) -> list[int]:
        """By the pair that the router was fitted for, else by tiers: as calibration saw them."""
        return [self._side(*self._places(pair)) for pair in pairs]

    def _side(self, first: Place, second: Place) -> int:
        if self.rated.pair is not None and first != second:
            usual = self.rated.usual_pair()
            if {first.model, second.model} == set(usual):
                return 1 if first.model == usual[0] else -1
        return int(np.sign(first.tier - second.tier))

    def explained_pair(self) -> Pair:
        """What `explain` speaks of: the pair, else the dearest and the cheapest candidate, else the best and worst."""
        candidates = self._settings.candidates
        if self.rated.pair is None and len(candidates) >= 2:
            pair = candidates[-1], candidates[0]
            try:
                self._places(pair)
            except ScoringError:
                pass  # the candidates are none of the router's models
            else:
                return pair
        strong, weak = self.rated.usual_pair()
        return self.rated.names[strong], self.rated.names[weak]

    def _places(self, pair: Pair) -> tuple[Place, Place]:
        first, second = pair
        place = self.rated.place
        return place(first, self._settings, stronger=True), place(second, self._settings, stronger=False)

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        known = {"encoder": identify(self._encoder), "calibration": self.calibration.as_dict(), **self.rated.as_dict()}
        return self.tensors(), self.metadata | known


def _plain(name: str) -> str:
    """A name without its provider's, in small letters."""
    return name.rpartition("/")[2].casefold()
