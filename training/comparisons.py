"""Comparisons of any models: what the methods are fitted on. Prompts are held once, however often they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import numpy as np
import numpy.typing as npt

from training.data import DataError, Labels, draw

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
Pair = tuple[str, str]  # strong, weak

ROLES: Pair = ("strong", "weak")  # what the models of data that name none are called

__all__ = ["ROLES", "Comparisons", "Pair"]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """n comparisons; row i says that on `prompts[prompt[i]]` the answer of `models[model_a[i]]` is preferred over that
    of `models[model_b[i]]` by `outcome[i]` in [0, 1] (1: always, 0: never, a tie is 0.5), with `weight[i]` > 0.

    `pair` names the strong and the weak model that a router is to be fitted for, if any.
    """

    prompts: list[str]
    models: list[str]
    prompt: Rows
    model_a: Rows
    model_b: Rows
    outcome: Floats
    weight: Floats
    source: list[str]
    pair: Pair | None = None

    def __post_init__(self) -> None:
        sizes = {len(c) for c in (self.prompt, self.model_a, self.model_b, self.outcome, self.weight, self.source)}
        if len(sizes) != 1:
            raise ValueError("comparisons need as many prompts, models, outcomes, weights and sources")

    def __len__(self) -> int:
        return len(self.outcome)

    def take(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> Comparisons:
        """These rows, in this order, with the prompts that they are about."""
        index = np.asarray(rows, dtype=np.intp)
        kept, prompt = np.unique(self.prompt[index], return_inverse=True)
        return Comparisons(
            [self.prompts[i] for i in kept.tolist()],
            self.models,
            prompt.astype(np.int32).reshape(-1),
            self.model_a[index],
            self.model_b[index],
            self.outcome[index],
            self.weight[index],
            [self.source[i] for i in index.tolist()],
            self.pair,
        )

    def split(self, fraction: float, seed: int) -> tuple[Comparisons, Comparisons]:
        """About `fraction` of the prompts with all their comparisons, and the rest; as `training.data.split`."""
        if not 0 <= fraction <= 1:
            raise ValueError("fraction must be within 0 and 1")
        limit = int(fraction * 2**64)
        first = np.array([draw(prompt, seed) < limit for prompt in self.prompts], dtype=bool)[self.prompt]
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))

    def labels(self) -> Labels:
        """The gains of strong over weak, for methods that know one pair. DataError without `pair` or rows of it."""
        if self.pair is None:
            raise DataError("this method is fitted for a pair of models: say which is strong and which is weak")
        place = {name: number for number, name in enumerate(self.models)}
        strong, weak = (place.get(name, -1) for name in self.pair)
        along = (self.model_a == strong) & (self.model_b == weak)
        against = (self.model_a == weak) & (self.model_b == strong)
        rows = np.flatnonzero(along | against)
        if not len(rows):
            raise DataError(f"no comparison is between {self.pair[0]} and {self.pair[1]}")
        gain = 2 * self.outcome[rows] - 1
        gain[against[rows]] *= -1
        prompts = [self.prompts[i] for i in self.prompt[rows].tolist()]
        return Labels(prompts, gain, self.weight[rows], [self.source[i] for i in rows.tolist()])

    def fingerprint(self) -> str:
        """A sha256 over the comparisons, in their order: data of the same fingerprint give the same router."""
        digest = sha256("\n".join([*self.models, *(self.pair or ())]).encode("utf-8", "surrogatepass"))
        for prompt in self.prompts:
            digest.update(sha256(prompt.encode("utf-8", "surrogatepass")).digest())
        for column, kind in ((self.prompt, "<i4"), (self.model_a, "<i4"), (self.model_b, "<i4")):
            digest.update(np.ascontiguousarray(column, kind).tobytes())
        for values in (self.outcome, self.weight):
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
        digest.update("\n".join(self.source).encode())
        return digest.hexdigest()

    @classmethod
    def from_labels(cls, labels: Labels, pair: Pair = ROLES) -> Self:
        """Every label as a comparison of strong with weak."""
        known: dict[str, int] = {}
        prompt = np.array([known.setdefault(text, len(known)) for text in labels.prompts], dtype=np.int32)
        n = len(labels)
        outcome = (1 + labels.gain) / 2
        a, b = np.zeros(n, np.int32), np.ones(n, np.int32)
        return cls(list(known), list(pair), prompt, a, b, outcome, labels.weight, list(labels.source), pair)
