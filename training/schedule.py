"""How a fine-tuning proceeds: its length, its minibatches in the order of a seed, and what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.embedding.local import minibatches
from training.data import DataError

Rows = npt.NDArray[np.intp]

WINDOW = 32  # minibatches whose examples are sorted by length: what is beside what stays a matter of chance

__all__ = ["History", "Rows", "Schedule", "parts", "shuffled"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a fit proceeds. The learning rate rises over the first `warm_up` of the steps, then falls to zero by a line.

    The fit stops after `patience` evaluations without a lower loss on the held-out examples, and keeps the weights of
    the lowest. DataError for values that make no sense.
    """

    learning_rate: float
    epochs: float = 3.0
    max_steps: int = 2000
    minibatch: int = 16  # examples a step, over all processes
    forward_tokens: int = 8192  # that pass through the model at once, padding included; a minibatch may take several
    weight_decay: float = 0.01
    warm_up: float = 0.1
    clip: float = 1.0  # of the gradient's norm
    evaluations: int = 10  # over the whole schedule
    patience: int = 3

    def __post_init__(self) -> None:
        if not (0 < self.learning_rate <= 1 and 0 < self.epochs <= 1000 and self.clip > 0):
            raise DataError("learning_rate must be above 0 to 1, epochs above 0 to 1,000, clip above 0")
        if not (0 <= self.weight_decay <= 1 and 0 <= self.warm_up < 1):
            raise DataError("weight_decay must be 0 to 1, warm_up 0 to below 1")
        if min(self.max_steps, self.minibatch, self.forward_tokens, self.evaluations, self.patience) < 1:
            raise DataError("max_steps, minibatch, forward_tokens, evaluations and patience must be 1 or more")

    def steps(self, examples: int) -> int:
        """How many there are at most for so many examples."""
        return max(1, min(self.max_steps, math.ceil(self.epochs * math.ceil(examples / self.minibatch))))


@dataclass(slots=True)
class History:
    """What happened: `curve` holds step, loss of the fit since the last evaluation, loss on the held-out examples."""

    steps: int = 0
    best_step: int = 0
    best_loss: float | None = None
    stopped_early: bool = False
    curve: list[dict[str, float | int | None]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def shuffled(lengths: npt.NDArray[np.int64], schedule: Schedule, steps: int, seed: int) -> Iterator[Rows]:
    """Minibatches of examples of like length, in an order that the seed draws anew for every epoch."""
    draw = np.random.default_rng(seed)
    done = 0
    while True:
        order = draw.permutation(len(lengths))
        found: list[Rows] = []
        for start in range(0, len(order), WINDOW * schedule.minibatch):
            window = order[start : start + WINDOW * schedule.minibatch]
            window = window[np.argsort(lengths[window], kind="stable")]
            found += [window[a : a + schedule.minibatch] for a in range(0, len(window), schedule.minibatch)]
        for number in draw.permutation(len(found)).tolist():
            yield found[number]
            done += 1
            if done == steps:
                return


def parts(rows: Rows, lengths: npt.NDArray[np.int64], tokens: int) -> Iterator[Rows]:
    """The rows of a minibatch that pass through a model together: at most so many tokens with padding, or one row."""
    for part in minibatches(lengths[rows], tokens):
        yield rows[part]
