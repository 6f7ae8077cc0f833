"""The training loop of methods that fine-tune a transformer: minibatches, AdamW, early stopping, several devices.

A method gives its `Examples`, which know their lengths and their loss; the loop knows nothing of labels. A `Schedule`
says how long it runs, minibatches come in the order of a seed, and `History` records what happened. Run by `accelerate
launch` every process takes its part of each minibatch, so that the fit is the same on one device and on eight up to
rounding. Weights stay float32; on CUDA bfloat16 computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs  # type: ignore[import-untyped]

from routing_service.embedding.local import minibatches
from training.data.labels import DataError
from training.progress import Progress

__all__ = ["Examples", "History", "Rows", "Schedule", "parts", "seeded", "shuffled", "train"]


class Examples(Protocol):
    """What is fitted on or measured with."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, shape (n,), 1 or more."""

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """What each example counts for, shape (n,), with a mean of about 1."""

    def losses(self, model: Any, rows: Rows) -> torch.Tensor:
        """The loss of each of these rows, unweighted, shape (rows,), by one forward pass of the model."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch draws from the seed inside, and goes on as before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    model: torch.nn.Module,
    fitted: Examples,
    held: Examples,
    schedule: Schedule,
    *,
    seed: int,
    device: torch.device,
    compiled: bool = False,
    progress: Progress,
    title: str = "fitting",
) -> History:
    """Fine-tune the model's trainable weights in place. Same seed, same weights (on CUDA: up to its rounding).

    Without held-out examples the last weights are kept. `compiled`: through torch.compile, which pays on CUDA alone.
    DataError where the loss ceases to be a number, or for no examples.
    """
    if not len(fitted.lengths):
        raise DataError("there is nothing to fit on")
    loop = _Loop(model, fitted, held, schedule, device, compiled)
    with seeded(seed), progress(title, loop.steps) as advance:
        for step, rows in enumerate(shuffled(fitted.lengths, schedule, loop.steps, seed), 1):
            loop.step(rows)
            advance(1)
            if loop.stops(step):
                break
    return loop.finish()


class _Loop:
    def __init__(
        self,
        model: torch.nn.Module,
        fitted: Examples,
        held: Examples,
        schedule: Schedule,
        device: torch.device,
        compiled: bool,
    ) -> None:
        self._fitted, self._held, self._schedule = fitted, held, schedule
        self.steps = schedule.steps(len(fitted.lengths))
        self._history = History()
        self._sum = self._count = 0.0
        self._since_best = 0
        self._best: dict[str, torch.Tensor] = {}
        on_cuda = device.type == "cuda"
        # Buffers are not trained; sent around at every pass they would hang processes that make fewer passes.
        apart = DistributedDataParallelKwargs(broadcast_buffers=False)
        precision = "bf16" if on_cuda else "no"
        self._accelerator = Accelerator(cpu=not on_cuda, mixed_precision=precision, kwargs_handlers=[apart])
        model.train()
        optimizer = torch.optim.AdamW(_groups(model, schedule.weight_decay), lr=schedule.learning_rate)
        self._model: Any
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._forward: Any = torch.compile(self._model, dynamic=True) if compiled else self._model
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        # The scheduler is not prepared: accelerate would advance it once for every process.
        self._rate = torch.optim.lr_scheduler.LambdaLR(self._optimizer.optimizer, self._share)

    def _share(self, step: int) -> float:
        """Of the learning rate, at a step from 0."""
        rising = self._schedule.warm_up * self.steps
        return min((step + 1) / (rising + 1), (self.steps - step) / max(self.steps - rising, 1))

    def step(self, rows: Rows) -> None:
        """One minibatch: forward and backward in parts that fit, then one step of the optimiser."""
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        mine = rows[rank::world]
        idle = not len(mine)  # fewer rows than processes: it must still take part in the exchange of gradients
        pieces = list(parts(rows[:1] if idle else mine, self._fitted.lengths, self._schedule.forward_tokens))
        for number, part in enumerate(pieces):
            last = number == len(pieces) - 1
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                loss = self._loss(self._fitted, part) * (0.0 if idle else world / len(rows))
                self._accelerator.backward(loss)
            self._sum += 0.0 if idle else loss.item() * len(rows) / world
        self._count += 0 if idle else len(mine)
        norm = self._accelerator.clip_grad_norm_(self._parameters, self._schedule.clip)
        if norm is None or not math.isfinite(float(norm)):
            raise DataError("the fit diverges: its loss is no number any more. Choose a lower learning_rate")
        self._optimizer.step()
        self._rate.step()
        self._optimizer.zero_grad()

    def stops(self, step: int) -> bool:
        """Evaluate where it is due; whether the fit ends here."""
        self._history.steps = step
        every = max(1, self.steps // self._schedule.evaluations)
        if step % every and step != self.steps:
            return False
        fit_loss, self._sum, self._count = self._mean(self._sum, self._count), 0.0, 0.0
        loss = self._validate()
        self._history.curve.append({"step": step, "fit": fit_loss, "held_out": loss})
        if loss is None:
            self._history.best_step = step
            return False
        if self._history.best_loss is None or loss < self._history.best_loss:
            self._history.best_loss, self._history.best_step, self._since_best = loss, step, 0
            trained = self._accelerator.unwrap_model(self._model).named_parameters()
            self._best = {name: p.detach().cpu().clone() for name, p in trained if p.requires_grad}
            return False
        self._since_best += 1
        self._history.stopped_early = self._since_best >= self._schedule.patience and step < self.steps
        return self._history.stopped_early

    def finish(self) -> History:
        """The best weights are the model's again, and the model is as it was handed in."""
        model: Any = self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False, keep_torch_compile=False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self._best:
                    parameter.copy_(self._best[name])
        model.eval()
        self._accelerator.free_memory()
        return self._history

    def _loss(self, examples: Examples, rows: Rows) -> torch.Tensor:
        losses = examples.losses(self._forward, rows)
        weights = torch.as_tensor(examples.weights[rows], dtype=losses.dtype, device=losses.device)
        return (losses * weights).sum()

    def _validate(self) -> float | None:
        """The weighted mean loss on the held-out examples; None where there are none."""
        lengths = self._held.lengths
        if not len(lengths):
            return None
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        self._model.eval()
        total = 0.0
        with torch.inference_mode():
            for rows in list(minibatches(lengths, self._schedule.forward_tokens))[rank::world]:
                total += self._loss(self._held, rows).item()
        self._model.train()
        return self._mean(total, float(self._held.weights.sum()) / world)

    def _mean(self, total: float, count: float) -> float:
        """Over all processes, so that all of them stop at the same step."""
        both = torch.tensor([total, count], dtype=torch.float64, device=self._accelerator.device)
        summed: Any = self._accelerator.reduce(both, "sum")
        return float(summed[0] / summed[1])


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and the scales of norms do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


Rows = npt.NDArray[np.intp]

WINDOW = 32  # minibatches whose examples are sorted by length: what is beside what stays a matter of chance


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
        minibatches: list[Rows] = []
        for start in range(0, len(order), WINDOW * schedule.minibatch):
            window = order[start : start + WINDOW * schedule.minibatch]
            window = window[np.argsort(lengths[window], kind="stable")]
            minibatches += [window[a : a + schedule.minibatch] for a in range(0, len(window), schedule.minibatch)]
        for number in draw.permutation(len(minibatches)).tolist():
            yield minibatches[number]
            done += 1
            if done == steps:
                return


def parts(rows: Rows, lengths: npt.NDArray[np.int64], tokens: int) -> Iterator[Rows]:
    """The rows of a minibatch that pass through a model together: at most so many tokens with padding, or one row."""
    for part in minibatches(lengths[rows], tokens):
        yield rows[part]
