"""What a causal_llm router is fitted on: prompts as tokens, a target over the labels for each, and the loss.

The loss is the cross-entropy at the next position over the label tokens alone. A forward pass reads the instructions
once, and gradients flow back through their keys and values: the same gradient as if every row held them, for a fraction
of the time. Labels are evened out, by weights within bounds or by drawing fewer of the frequent ones; the router's
bias takes back what that does to the probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from routing_service.routers.transformers.causal_llm import Judge
from routing_service.routers.transformers.causal_prompts import Form, PromptTokens
from routing_service.routers.transformers.prefix_cache import last_hidden, prefill
from training.data.comparisons import Comparisons
from training.data.labels import DataError, draw
from training.fit.training_loop import Rows

Vector = npt.NDArray[np.float64]

LARGEST_WEIGHT = 4.0  # of a label, and the inverse of the least

__all__ = [
    "BALANCES",
    "JudgedExamples",
    "JudgedPrompts",
    "LabelModel",
    "Vector",
    "balanced",
    "judged",
    "label_weights",
]

BALANCES = ("weights", "downsample", "none")


@dataclass(frozen=True, slots=True)
class JudgedPrompts:
    """n prompts, some perhaps more than once, and how the pair's answers to them were judged."""

    prompts: list[str]
    target: Vector  # (n, labels), rows sum to 1
    outcome: Vector  # of the strong model
    weight: Vector

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: npt.NDArray[np.bool_]) -> JudgedPrompts:
        """Those of the rows that are true."""
        prompts = [self.prompts[i] for i in np.flatnonzero(rows).tolist()]
        return JudgedPrompts(prompts, self.target[rows], self.outcome[rows], self.weight[rows])

    def counts(self, labels: Sequence[str]) -> dict[str, float]:
        """How many rows each label has; a row between two labels is some of both."""
        return dict(zip(labels, self.target.sum(0).round(3).tolist(), strict=True))


def judged(comparisons: Comparisons, form: Form) -> JudgedPrompts:
    """The comparisons of the pair, or for the form `scores` those that hold a rating, with targets over the labels.

    A value between two labels' belongs to both, by a line: an outcome of .8 is 60 % strong and 40 % tie. DataError
    without a pair or its rows, and for `scores` where no row is rated.
    """
    comparisons.labels()  # says what is missing
    rows, outcome = comparisons.of_pair()
    if form.name == "scores":
        rating = np.full(len(rows), np.nan) if comparisons.rating is None else comparisons.rating[rows]
        rated = np.isfinite(rating)
        if not rated.any():
            raise DataError("the form `scores` is fitted on ratings of the weak model's answers, and no row has one")
        rows, outcome, place = rows[rated], outcome[rated], rating[rated] - 1
    else:
        place = 2 * (1 - outcome)  # strong, tie, weak
    distance = np.abs(place[:, None] - np.arange(len(form.labels)))
    prompts = [comparisons.prompts[i] for i in comparisons.prompt[rows].tolist()]
    return JudgedPrompts(prompts, np.maximum(1 - distance, 0), outcome, comparisons.weight[rows])


def balanced(known: JudgedPrompts, wins: Sequence[float], how: str, seed: int) -> tuple[JudgedPrompts, Vector, Vector]:
    """What is fitted on so that the frequent labels do not drown the others, what each label's part of the loss counts
    for, and how much of each label is left or counted: its logarithm is what the labels' bias has to give back.

    `weights`: rare labels count for more. `downsample`, as in Anyscale's tutorial: of the prompts that need the strong
    model and of those that do not, the more are drawn down to the fewer, by the seed. `none`: as they are.
    """
    ones = np.ones(known.target.shape[1])
    if how == "weights":
        weights = label_weights(known)
        return known, weights, weights
    if how == "none":
        return known, ones, ones
    needs_strong = np.greater(wins, 0.5)
    strong = known.target @ needs_strong >= 0.5
    count = int(min(strong.sum(), (~strong).sum()))
    if not count:  # one-sided: nothing to even out
        return known, ones, ones
    rank = np.array([draw(prompt, seed) for prompt in known.prompts], np.uint64)
    kept = np.zeros(len(known), bool)
    for side in (np.flatnonzero(strong), np.flatnonzero(~strong)):
        kept[side[np.argsort(rank[side], kind="stable")[:count]]] = True
    shares = [count / side.sum() for side in (~strong, strong)]
    return known.take(kept), ones, np.where(needs_strong, shares[1], shares[0])


def label_weights(known: JudgedPrompts) -> Vector:
    """What each label's part of a loss counts for, shape (labels,): the inverse of its frequency, within bounds, with a
    mean of 1 over the examples. Of a label that never occurs: as one that occurs as often as the others.
    """
    share = known.weight @ known.target / known.weight.sum()
    inverse = np.divide(1 / len(share), share, out=np.ones_like(share), where=share > 0)
    weights = np.clip(inverse, 1 / LARGEST_WEIGHT, LARGEST_WEIGHT)
    scaled: Vector = weights / (weights @ share)
    return scaled


class LabelModel(nn.Module):
    """The model that is trained: rows of tokens in, logits of the labels out, shape (rows, labels)."""

    bias: Tensor

    def __init__(self, body: Any, judge: Judge, prefix: list[int]) -> None:
        super().__init__()
        self.body = body
        self.labels = nn.Parameter(judge.labels.float().clone())
        self.register_buffer("bias", judge.bias.float().clone())
        self._prefix = prefix

    def forward(self, rows: list[list[int]]) -> Tensor:
        prefix = prefill(self.body, self._prefix)
        hidden = last_hidden(self.body, rows, prefix, prefix.shared_by(rows))
        logits: Tensor = nn.functional.linear(hidden, self.labels.to(hidden.dtype)).float() + self.bias
        return logits


class JudgedExamples:
    """`training.fit.training_loop.Examples` of judged prompts."""

    def __init__(self, known: JudgedPrompts, tokens: PromptTokens, weights: Vector) -> None:
        self._rows = tokens.rows(known.prompts)
        self._target = torch.from_numpy(known.target * weights)
        self._weight = known.weight / known.weight.mean() if len(known) else known.weight
        read_once = len(tokens.prefix)
        self._lengths = np.array([max(len(row) - read_once, 1) for row in self._rows], dtype=np.int64)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Of the prompts: the instructions are read once a pass."""
        return self._lengths

    @property
    def weights(self) -> Vector:
        return self._weight

    def losses(self, model: Any, rows: Rows) -> Tensor:
        logits: Tensor = model([self._rows[row] for row in rows.tolist()])
        target = self._target[torch.from_numpy(rows)].to(logits)
        return -(target * logits.log_softmax(-1)).sum(-1)
