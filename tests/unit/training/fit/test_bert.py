"""Fitting the bert router on an encoder of a few thousand weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.errors import ConfigurationError
from routing_service.routers.registry import load_router
from routing_service.routers.transformers.bert import BertRouter
from routing_service.settings import Settings
from tests.support.routers.labelled import labels
from tests.support.routers.tiny_encoder import texts, write_encoder
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.evaluate.metrics import apgr
from training.fit.bert import BertOptions, fit, soft_labels

QUICK = BertOptions(
    max_tokens=64, learning_rate=0.003, epochs=2, minibatch=16, evaluations=4, held_out_share=0.3, precision="float"
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_encoder(tmp_path_factory.mktemp("encoder")))


def data(n: int, seed: int = 0) -> Comparisons:
    """The weak model fails where the prompt begins with hard, else both are alike."""
    draw = np.random.default_rng(seed)
    prompts = [f"{'w1 w2' if number % 2 else 'w3 w4'} {text}" for number, text in enumerate(texts(n, seed, 6))]
    hard = np.arange(n) % 2 == 1
    return Comparisons.from_labels(labels(prompts, np.where(hard, draw.random(n) < 0.9, 0.0).tolist()))


def fitted(encoder: str, comparisons: Comparisons, seed: int = 0, **options: Any) -> BertRouter:
    chosen = replace(QUICK, encoder=encoder, **options)
    return fit(comparisons, seed=seed, options=chosen, settings=Settings())


@pytest.fixture(scope="module")
def router(encoder: str) -> BertRouter:
    return fitted(encoder, data(400))


def test_it_learns_which_prompts_are_hard(router: BertRouter) -> None:
    test = data(200, seed=9).labels()
    rates = router.win_rates(test.prompts, "strong", "weak")
    assert apgr(rates, test.gain) > 0.65  # of .75 at best
    assert rates[::2].mean() == pytest.approx(0.5, abs=0.1)
    assert rates[1::2].mean() == pytest.approx(0.95, abs=0.1)


def test_its_metadata_say_how_it_was_fitted(router: BertRouter) -> None:
    actual = router.metadata
    assert (actual["seed"], actual["options"]["minibatch"], actual["data"]["sources"]) == (0, 16, {"golden": 400})
    assert actual["data"]["fingerprint"] == data(400).fingerprint()
    curve = actual["metrics"]["fit"]["curve"]
    best = min(curve, key=lambda point: point["held_out"])
    assert best["step"] == actual["metrics"]["fit"]["best_step"]
    calibration = actual["metrics"]["calibration"]
    assert calibration["held_out"] >= 100
    assert calibration["error_before"] < 0.06


def test_a_fitted_router_is_saved_and_loaded(router: BertRouter, tmp_path: Path) -> None:
    router.save(tmp_path / "r")
    loaded = load_router(tmp_path / "r", Settings())
    prompts = texts(20, 3)
    assert loaded.win_rates(prompts, "strong", "weak") == pytest.approx(
        router.win_rates(prompts, "strong", "weak"), abs=1e-6
    )


def test_the_same_seed_gives_the_same_router_and_another_seed_another(encoder: str) -> None:
    few, prompts = data(60), texts(20, 3)
    first, second, other = (
        fitted(encoder, few, seed=s, epochs=1).win_rates(prompts, "strong", "weak").tolist() for s in (3, 3, 4)
    )
    assert first == second
    assert first != other


def test_soft_labels_are_learned(encoder: str) -> None:
    """Every prompt is 30 % better answered by the strong model: nobody ever wins outright."""
    soft = Comparisons.from_labels(labels(texts(120), [0.3] * 120))
    rates = fitted(encoder, soft, epochs=4).win_rates(texts(30, 5), "strong", "weak")
    assert rates == pytest.approx(np.full(30, 0.65), abs=0.05)


def test_rare_labels_weigh_more_in_the_fit_and_not_in_the_win_rates(encoder: str) -> None:
    gain = (np.arange(200) % 10 == 0).astype(float).tolist()  # a tenth are wins, by nothing that a prompt shows
    rare = Comparisons.from_labels(labels(texts(200), gain))
    balanced = fitted(encoder, rare, held_out_share=0)
    assert balanced.figures.offsets == pytest.approx((-np.log(10 / 3), np.log(2.7), -np.log(4)))
    assert fitted(encoder, rare, balance=False, epochs=0.1).figures.offsets == (0, 0, 0)
    assert balanced.win_rates(texts(100, 5), "strong", "weak").mean() == pytest.approx(0.55, abs=0.06)


def test_a_prompt_with_many_labels_is_one_example_that_counts_for_all(encoder: str) -> None:
    often = Comparisons.from_labels(labels(["w1 w2"] * 30 + ["w3 w4"], [1.0] * 20 + [0.0] * 10 + [0.0]))
    router = fitted(encoder, often, epochs=40, minibatch=2, balance=False)
    assert router.metadata["metrics"]["fit"]["steps"] == 40
    assert router.win_rates(["w1 w2"], "strong", "weak")[0] == pytest.approx(5 / 6, abs=0.05)


def test_comparisons_are_turned_to_the_pair(encoder: str) -> None:
    turned = data(100)
    turned = replace(turned, model_a=turned.model_b, model_b=turned.model_a, outcome=1 - turned.outcome)
    prompts = texts(10, 3)
    first, second = (fitted(encoder, d, epochs=1).win_rates(prompts, "strong", "weak") for d in (data(100), turned))
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_one_sided_data_give_a_router_that_says_so(encoder: str, gain: float) -> None:
    rates = fitted(encoder, Comparisons.from_labels(labels(texts(100), [gain] * 100)), epochs=4).win_rates(
        texts(20, 5), "strong", "weak"
    )
    assert rates == pytest.approx(np.full(20, (1 + gain) / 2), abs=0.1)


def test_a_single_comparison_is_fitted_without_calibration(encoder: str) -> None:
    router = fitted(encoder, Comparisons.from_labels(labels(["w1"], [1.0])))
    assert router.metadata["metrics"]["calibration"] == {"applied": False, "held_out": 0}
    assert 0 <= router.win_rates(["w1"], "strong", "weak")[0] <= 1


def test_no_comparison_of_the_pair_is_an_error(encoder: str) -> None:
    with pytest.raises(DataError, match="no usable row"):
        fitted(encoder, replace(data(10), pair=("a", "b")))
    with pytest.raises(DataError, match="which is strong"):
        fitted(encoder, replace(data(10), pair=None))


def test_an_encoder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such directory"):
        fitted(str(tmp_path / "none"), data(10))


def test_an_encoder_that_cannot_be_fine_tuned_is_an_error(tmp_path: Path) -> None:
    directory = write_encoder(tmp_path / "encoder")
    (directory / "config.json").write_text('{"model_type": "oracle"}')
    with pytest.raises(DataError, match="cannot be fine-tuned"):
        fitted(str(directory), data(10))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 2}, {"held_out_share": 0.9}, {"precision": "int4"}, {"learning_rate": -1.0}, {"epochs": 0},
        {"learning_rate": float("nan")},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        BertOptions(**wrong)


@given(st.lists(st.floats(-1, 1), min_size=1))
def test_soft_labels_keep_the_win_rate(gain: list[float]) -> None:
    actual = soft_labels(np.array(gain))
    assert (actual >= 0).all()
    assert actual.sum(axis=1) == pytest.approx(np.ones(len(gain)))
    assert actual[:, 0] + actual[:, 1] / 2 == pytest.approx((1 + np.array(gain)) / 2)
    assert ((actual > 0).sum(axis=1) <= 2).all()  # between neighbours alone
