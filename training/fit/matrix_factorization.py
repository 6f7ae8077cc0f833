"""Fitting matrix factorisation as RouteLLM's training script does: Adam, noise on the prompts' vectors, ten epochs.

Two things differ from that script. Comparisons have soft outcomes, so that a tie, which it leaves out, counts as half a
win each way. And the projection has a bias, as the paper's formula has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from routing_service.device import choose
from routing_service.embedding.registry import Floats, make_encoder
from routing_service.routers.bradley_terry.matrix_factorization import Factors, MatrixFactorizationRouter
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.rated import Half, calibrate, embed, recorded, usable
from training.fit.tiers import TIERS, rate
from training.progress import Progress, silent

if TYPE_CHECKING:
    import torch

ANY_PAIR = True  # its routers compare any two models of the data


@dataclass(frozen=True, slots=True)
class MatrixFactorizationOptions:
    dimensions: int = 128  # of a model's vector
    epochs: int = 10
    least_steps: int = 1000  # more epochs where there are few comparisons
    minibatch: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    noise: float = 0.1  # standard deviation of what is added to every number of a prompt's vector
    tiers: int = TIERS
    calibration_share: float = 0.2  # of the prompts, held out to calibrate on; 0 for none

    def __post_init__(self) -> None:
        if not (1 <= self.dimensions <= 4096 and 1 <= self.epochs <= 1000 and 1 <= self.minibatch <= 65_536):
            raise DataError("dimensions must be 1 to 4,096, epochs 1 to 1,000, minibatch 1 to 65,536")
        if not (0 < self.learning_rate <= 1 and 0 <= self.weight_decay <= 1 and 0 <= self.noise <= 10):
            raise DataError("learning_rate must be above 0 and at most 1, weight_decay 0 to 1, noise 0 to 10")
        if not (2 <= self.tiers <= 100 and 0 <= self.least_steps <= 1_000_000):
            raise DataError("tiers must be 2 to 100, least_steps 0 to 1,000,000")
        if not 0 <= self.calibration_share <= 0.5:
            raise DataError("calibration_share must be 0 to 0.5")


def fit(
    comparisons: Comparisons,
    *,
    seed: int,
    options: MatrixFactorizationOptions,
    settings: Settings,
    progress: Progress = silent,
) -> MatrixFactorizationRouter:
    """Fit a router for any pair of the models. Same comparisons, seed and device, same router.

    DataError for no comparison of two different models, and for options under which the fit runs away.
    """
    data = usable(comparisons)
    encoder = make_encoder(settings)
    vectors = embed(data.prompts, encoder, progress)

    def fitted(kept: Comparisons, of_kept: Half) -> MatrixFactorizationRouter:
        factors = _factors(kept, of_kept, seed, options, choose(settings.routing.device), progress)
        return MatrixFactorizationRouter(factors, rate(kept, options.tiers), encoder, settings)

    calibration, measured = calibrate(data, vectors, fitted, share=options.calibration_share, seed=seed)
    router = fitted(data, vectors)
    router.calibration = calibration
    router.metadata = recorded(data, seed=seed, options=options, calibration=measured)
    return router


def _factors(
    data: Comparisons,
    vectors: Half,
    seed: int,
    options: MatrixFactorizationOptions,
    device: torch.device,
    progress: Progress,
) -> Factors:
    import torch

    draw = torch.Generator().manual_seed(seed)
    noise = torch.Generator(device).manual_seed(seed)
    model = _Model.drawn(len(data.models), vectors.shape[1], options.dimensions, draw, device)
    rate, decay = options.learning_rate, options.weight_decay
    optimizer = torch.optim.Adam(model.weights, lr=rate, weight_decay=decay, fused=True)
    prompts = torch.from_numpy(vectors).to(device)
    columns = [torch.from_numpy(np.ascontiguousarray(c)).to(device) for c in (data.prompt, data.model_a, data.model_b)]
    prompt, first, second = (column.long() for column in columns)
    outcome, weight = (torch.from_numpy(values).float().to(device) for values in (data.outcome, data.weight))
    weight = weight / weight.mean()
    rows = len(data)
    epochs = max(options.epochs, -(-options.least_steps // -(-rows // options.minibatch)))
    with _one_thread(), progress("fitting matrix_factorization", epochs * rows) as advance:
        for _ in range(epochs):
            order = torch.randperm(rows, generator=draw).to(device)
            for start in range(0, rows, options.minibatch):
                chosen = order[start : start + options.minibatch]
                x = prompts[prompt[chosen]].float()
                x += options.noise * torch.randn(x.shape, generator=noise, device=device)
                logits = model(x, first[chosen], second[chosen])
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, outcome[chosen], weight[chosen])
                gradients = torch.autograd.grad(loss, model.weights)
                for parameter, gradient in zip(model.weights, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                advance(len(chosen))
    return model.factors(vectors.mean(axis=0, dtype=np.float32))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A step is too small to share between cores: sharing costs more, many times as much where cores are busy, and the
    order of additions would depend on how many there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class _Model:
    """The parameters while they are fitted: table (M, k), projection (k, d), bias (k,), classifier (k,)."""

    weights: list[torch.Tensor]

    @classmethod
    def drawn(cls, models: int, d: int, k: int, draw: torch.Generator, device: torch.device) -> _Model:
        """As torch draws the first weights of an embedding and of linear layers."""
        import torch

        table = torch.randn(models, k, generator=draw)
        shapes: list[tuple[tuple[int, ...], int]] = [((k, d), d), ((k,), d), ((k,), k)]
        others = [(torch.rand(shape, generator=draw) * 2 - 1) / inputs**0.5 for shape, inputs in shapes]
        return cls([tensor.to(device).requires_grad_() for tensor in (table, *others)])

    def __call__(self, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """delta of `first` minus delta of `second`, shape (n,), for prompts' vectors (n, d)."""
        from torch.nn.functional import normalize, one_hot

        table, projection, bias, classifier = self.weights
        # Rows of +1 and -1 instead of look-ups: their gradient adds up in the same order every time, on a GPU too.
        difference = one_hot(first, len(table)) - one_hot(second, len(table))
        chosen = difference.float() @ normalize(table, dim=1)
        return (chosen * (x @ projection.T + bias)) @ classifier

    def factors(self, typical: Floats) -> Factors:
        from torch.nn.functional import normalize

        table, *others = self.weights
        fitted = [tensor.detach().cpu().numpy() for tensor in (normalize(table, dim=1), *others)]
        vectors = [*fitted, typical]
        if not all(np.isfinite(array).all() for array in vectors):
            raise DataError("the fit ran away: lower learning_rate")
        return Factors(*vectors)
