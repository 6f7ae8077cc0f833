"""Comparisons of any models: what the methods are fitted on. Prompts are held once, however often they are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import numpy as np
import numpy.typing as npt

from training.data.labels import DataError, Labels, draw

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]
Pair = tuple[str, str]  # strong, weak

ROLES: Pair = ("strong", "weak")  # what the models of data that name none are called
LISTED_PAIRS = 5

__all__ = ["ROLES", "Comparisons", "Pair"]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """n comparisons; row i says that on `prompts[prompt[i]]` the answer of `models[model_a[i]]` is preferred over that
    of `models[model_b[i]]` by `outcome[i]` in [0, 1] (1: always, 0: never, a tie is 0.5), with `weight[i]` > 0.

    `pair` names the strong and the weak model that a router is to be fitted for, if any. `rating[i]` is a judge's score
    of 1 to 5 of the weak model's answer, NaN where there is none; None: no row has one. `models` may hold names that no
    row is about (any more).
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
    rating: Floats | None = None

    def __post_init__(self) -> None:
        sizes = {len(c) for c in (self.prompt, self.model_a, self.model_b, self.outcome, self.weight, self.source)}
        if len(sizes) != 1 or (self.rating is not None and len(self.rating) != len(self)):
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
            None if self.rating is None else self.rating[index],
        )

    def split(self, fraction: float, seed: int) -> tuple[Comparisons, Comparisons]:
        """About `fraction` of the prompts with all their comparisons, and the rest; as `training.data.labels.split`."""
        if not 0 <= fraction <= 1:
            raise ValueError("fraction must be within 0 and 1")
        limit = int(fraction * 2**64)
        first = np.array([draw(prompt, seed) < limit for prompt in self.prompts], dtype=bool)[self.prompt]
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))

    def labels(self) -> Labels:
        """The gains of strong over weak, for methods that know one pair. DataError without `pair` or rows of it."""
        if self.pair is None:
            raise DataError(
                "rows name their models: say which is strong and which is weak. " + self.most_common_pairs()
            )
        rows, outcome = self.of_pair()
        if not len(rows):
            raise DataError(f"no usable row compares {self.pair[0]} with {self.pair[1]}. {self.most_common_pairs()}")
        prompts = [self.prompts[i] for i in self.prompt[rows].tolist()]
        return Labels(prompts, 2 * outcome - 1, self.weight[rows], [self.source[i] for i in rows.tolist()])

    def of_pair(self) -> tuple[npt.NDArray[np.intp], Floats]:
        """The rows that compare the two models of `pair`, and their outcomes with strong first; none without `pair`."""
        place = {name: number for number, name in enumerate(self.models)}
        strong, weak = (place.get(name, -1) for name in self.pair or ("", ""))
        along = (self.model_a == strong) & (self.model_b == weak)
        against = (self.model_a == weak) & (self.model_b == strong)
        rows = np.flatnonzero((along | against) & (strong != weak))
        return rows, np.where(along[rows], self.outcome[rows], 1 - self.outcome[rows])

    def most_common_pairs(self) -> str:
        """A sentence that lists the pairs of models with the most rows, in the order of the alphabet."""
        names = sorted(self.models)
        place = {name: number for number, name in enumerate(names)}
        order = np.array([place[name] for name in self.models], np.int64)
        a, b = order[self.model_a], order[self.model_b]
        pairs, counts = np.unique(np.minimum(a, b) * len(names) + np.maximum(a, b), return_counts=True)
        listed = []
        for i in np.argsort(-counts, kind="stable")[:LISTED_PAIRS].tolist():
            first, second = divmod(int(pairs[i]), len(names))
            listed.append(f"{names[first]} / {names[second]} ({counts[i]} rows)")
        return f"Most common: {', '.join(listed) or 'none, there are no rows'}"

    def require_contrast(self) -> None:
        """DataError where no model ever fares better than at another time: such data cannot tell prompts apart."""
        if not len(self):
            raise DataError("there are no comparisons")
        low, high = np.full(len(self.models), np.inf), np.full(len(self.models), -np.inf)
        for model, outcome in ((self.model_a, self.outcome), (self.model_b, 1 - self.outcome)):
            np.minimum.at(low, model, outcome)
            np.maximum.at(high, model, outcome)
        if not (high > low).any():
            raise DataError(
                f"all {len(self)} comparisons say the same of each model: a router needs prompts where the models "
                "differ and prompts where they do not"
            )

    def fingerprint(self) -> str:
        """A sha256 over the comparisons, in their order: data of the same fingerprint give the same router."""
        digest = sha256(json.dumps([self.models, self.pair]).encode())
        for prompt in self.prompts:
            digest.update(sha256(prompt.encode("utf-8", "surrogatepass")).digest())
        for column, kind in ((self.prompt, "<i4"), (self.model_a, "<i4"), (self.model_b, "<i4")):
            digest.update(np.ascontiguousarray(column, kind).tobytes())
        for values in (self.outcome, self.weight, *(() if self.rating is None else (self.rating,))):
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
