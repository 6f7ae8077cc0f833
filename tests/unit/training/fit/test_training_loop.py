"""The training loop of transformers, on a model of a few weights: its minibatches, its early stopping, its seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.data.labels import DataError
from training.fit.training_loop import History, Rows, Schedule, parts, seeded, shuffled, train
from training.progress import silent

CPU = torch.device("cpu")
QUICK = Schedule(learning_rate=0.05, epochs=4, minibatch=8, forward_tokens=300, weight_decay=0)


@dataclass
class Points:
    """y = sign of x's first coordinate, through any model of two coordinates."""

    x: torch.Tensor
    y: torch.Tensor
    lengths: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    spoil: Callable[[torch.Tensor], torch.Tensor] = lambda losses: losses

    def losses(self, model: Any, rows: Rows) -> torch.Tensor:
        index = torch.from_numpy(rows)
        logits = model(self.x[index])[:, 0]
        return self.spoil(torch.nn.functional.binary_cross_entropy_with_logits(logits, self.y[index], reduction="none"))


def points(n: int, seed: int = 0, flip: bool = False) -> Points:
    draw = np.random.default_rng(seed)
    x = torch.from_numpy(draw.normal(size=(n, 2)).astype(np.float32))
    y = (x[:, 0] > 0).float()
    return Points(x, 1 - y if flip else y, draw.integers(1, 30, n), np.ones(n))


def model(seed: int = 0) -> torch.nn.Module:
    with seeded(seed):
        return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(4, 1))


def fitted(
    schedule: Schedule = QUICK, seed: int = 0, held: Points | None = None
) -> tuple[dict[str, torch.Tensor], History]:
    trained = model()
    held = points(40, 1) if held is None else held
    history = train(trained, points(200), held, schedule, seed=seed, device=CPU, progress=silent)
    return trained.state_dict(), history


def test_the_loss_on_held_out_examples_falls_and_the_curve_is_kept() -> None:
    _, history = fitted()
    assert history.steps == 100
    assert [point["step"] for point in history.curve] == list(range(10, 101, 10))
    assert history.best_loss is not None
    assert history.best_loss < 0.3
    assert history.best_loss == min(point["held_out"] or 0 for point in history.curve)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, other = (fitted(seed=seed)[0] for seed in (3, 3, 4))
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_random_numbers_outside_a_fit_go_on_as_if_there_were_none() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2).tolist()
    torch.manual_seed(5)
    fitted()
    assert torch.rand(2).tolist() == expected


def test_it_stops_when_held_out_examples_get_worse_and_keeps_the_best_weights() -> None:
    contrary = points(40, 1, flip=True)
    weights, history = fitted(held=contrary)
    assert (history.stopped_early, history.steps, history.best_step) == (True, 40, 10)
    again = model()
    again.load_state_dict(weights)
    with torch.no_grad():
        loss = contrary.losses(again.eval(), np.arange(40)).mean().item()
    assert loss == pytest.approx(history.best_loss, rel=1e-5)


def test_without_held_out_examples_the_last_weights_are_kept() -> None:
    _, history = fitted(held=points(0))
    assert (history.best_step, history.best_loss, history.stopped_early) == (100, None, False)


def test_a_minibatch_in_parts_gives_the_same_step() -> None:
    no_dropout = torch.nn.Linear(2, 1)
    start = {name: value.clone() for name, value in no_dropout.state_dict().items()}
    actual = []
    for tokens in (30, 10_000):
        no_dropout.load_state_dict(start)
        schedule = replace(QUICK, forward_tokens=tokens, max_steps=5)
        train(no_dropout, points(50), points(0), schedule, seed=0, device=CPU, progress=silent)
        actual.append(no_dropout.weight.detach().clone())
    assert torch.allclose(actual[0], actual[1], atol=1e-6)
    assert not torch.equal(actual[0], start["weight"])


def test_frozen_weights_stay_as_they_are() -> None:
    trained = model()
    first: Any = trained[0]  # type: ignore[index]
    first.weight.requires_grad_(False)
    before = first.weight.clone()
    train(trained, points(50), points(20, 1), QUICK, seed=0, device=CPU, progress=silent)
    assert first.weight.equal(before)


def test_examples_of_more_weight_count_for_more() -> None:
    """Two contradicting examples: the heavier one wins."""
    both = points(2)
    both.x[1] = both.x[0]
    both.y[:] = torch.tensor([0.0, 1.0])
    trained = torch.nn.Linear(2, 1)
    both.weights[:] = (1.8, 0.2)
    train(trained, both, points(0), replace(QUICK, epochs=100), seed=0, device=CPU, progress=silent)
    assert trained(both.x).sigmoid()[0].item() == pytest.approx(0.1, abs=0.1)


def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_do() -> None:
    broken = points(50)
    broken.spoil = lambda losses: losses * float("nan")
    with pytest.raises(DataError, match="learning_rate"):
        train(model(), broken, points(10), QUICK, seed=0, device=CPU, progress=silent)


def test_nothing_to_fit_on_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to fit"):
        train(model(), points(0), points(10), QUICK, seed=0, device=CPU, progress=silent)


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0}, {"epochs": 0}, {"minibatch": 0}, {"warm_up": 1.0}, {"weight_decay": -1}]
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        replace(QUICK, **wrong)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=120), st.integers(1, 20), st.integers(1, 2000))
def test_an_epoch_holds_every_example_once(lengths: list[int], size: int, tokens: int) -> None:
    schedule = Schedule(learning_rate=0.1, epochs=1, minibatch=size)
    sizes = np.array(lengths)
    items = list(shuffled(sizes, schedule, schedule.steps(len(lengths)), seed=1))
    assert sorted(np.concatenate(items).tolist()) == list(range(len(lengths)))
    for rows in items:
        pieces = list(parts(rows, sizes, tokens))
        assert sorted(np.concatenate(pieces).tolist()) == sorted(rows.tolist())
        assert all(len(piece) == 1 or len(piece) * sizes[piece].max() <= tokens for piece in pieces)
