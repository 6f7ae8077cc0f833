"""Fine-tuning a language model's verdict, on a tiny model made on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routing_service.routers.registry import load_router
from routing_service.routers.transformers.causal_llm import CausalLLMRouter
from routing_service.routers.transformers.causal_prompts import PAIRWISE, SCORES, PromptTokens, ask
from routing_service.settings import Settings
from tests.support.routers.tiny_llm import save_tiny, tiny_model, tiny_tokenizer
from training.data.comparisons import Comparisons
from training.data.labels import DataError, Labels
from training.fit.causal_base import load_base, plain_tokens, taken_apart
from training.fit.causal_examples import JudgedExamples, LabelModel, balanced, judged, label_weights
from training.fit.causal_llm import CausalLLMOptions, fit, regression
from training.fit.methods import method

EASY = [f"easy question number {i}" for i in range(24)]
HARD = [f"hard question number {i}" for i in range(24)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


def comparisons(prompts: list[str], gain: Any, rating: Any = None) -> Comparisons:
    gain = np.asarray(gain, float)
    actual = Comparisons.from_labels(Labels(prompts, gain, np.ones(len(prompts)), ["golden"] * len(prompts)))
    return actual if rating is None else replace(actual, rating=np.asarray(rating, float))


def separable() -> Comparisons:
    return comparisons([*EASY, *HARD], [0.0] * len(EASY) + [1.0] * len(HARD))


def fitted(base: str, data: Comparisons, seed: int = 0, **options: Any) -> CausalLLMRouter:
    values: dict[str, Any] = {
        "base": base,
        "adapter": "lora",
        "epochs": 3,
        "learning_rate": 0.01,
        "max_tokens": 512,
        "precision": "float",
    } | options
    return fit(data, seed=seed, options=CausalLLMOptions(**values), settings=Settings())


def test_lora_learns_which_prompts_need_the_strong_model(base: str, tmp_path: Path) -> None:
    router = fitted(base, separable(), epochs=6)
    easy, hard = (router.win_rates(prompts, "strong", "weak") for prompts in (EASY, HARD))
    assert hard.min() > easy.max()
    router.save(tmp_path / "router")
    again = load_router(tmp_path / "router", Settings())
    np.testing.assert_array_equal(again.win_rates(HARD, "strong", "weak"), hard)
    metrics = router.metadata["metrics"]
    assert metrics["fit"]["best_loss"] < metrics["fit"]["curve"][0]["held_out"]
    assert router.metadata["data"]["rows"] == 48
    assert not any("lora" in name for name, _ in router.judge.body.named_modules())


def test_label_rows_alone_learn_it_from_one_pass_and_that_is_what_a_cpu_fits(base: str, tmp_path: Path) -> None:
    router = fitted(base, separable(), adapter="auto")
    easy, hard = (router.win_rates(prompts, "strong", "weak") for prompts in (EASY, HARD))
    assert hard.min() > easy.max()
    untouched, _ = load_base(base)
    tuned = dict(router.judge.body.named_parameters())
    for name, parameter in untouched.base_model.named_parameters():
        torch.testing.assert_close(tuned[name], parameter.bfloat16().float(), msg=name)
    router.save(tmp_path / "router")
    again = load_router(tmp_path / "router", Settings())
    np.testing.assert_array_equal(again.win_rates(HARD, "strong", "weak"), hard)
    assert router.metadata["metrics"]["fitted_on"]["rows"] == 48  # held-out prompts are fitted on in the end
    assert router.metadata["metrics"]["calibration"]["held_out"] > 0


def test_label_rows_are_where_the_penalised_loss_is_least() -> None:
    draw = np.random.default_rng(0)
    states = torch.from_numpy(draw.normal(2, 3, (40, 6)))
    target = np.eye(3)[draw.integers(0, 3, 40)]
    weight = draw.uniform(0.5, 2, 40)
    labels, bias = regression(states, target, weight, 0.7)
    logits = states @ labels.double().T + bias.double()
    off = torch.from_numpy(weight[:, None]) * (logits.softmax(-1) - torch.from_numpy(target))
    scale = states.std(0, correction=0) * 6**0.5
    inputs = (states - states.mean(0)) / scale
    slope = off.T @ inputs + 0.7 * labels.double() * scale
    assert slope.abs().max() < 1e-3


def test_full_fine_tuning_learns_it_too(base: str) -> None:
    router = fitted(base, separable(), adapter="full", validation_share=0.0, epochs=4)
    easy, hard = (router.win_rates(prompts, "strong", "weak").mean() for prompts in (EASY, HARD))
    assert hard > easy + 0.2


def test_the_same_seed_gives_the_same_router(base: str) -> None:
    first, again, other = (
        fitted(base, separable(), seed=seed, epochs=0.5).win_rates(EASY, "s", "w") for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_no_epoch_keeps_the_model_as_it_is(base: str) -> None:
    router = fitted(base, separable(), epochs=0, stored="float32")
    model, tokenizer = load_base(base)
    (row,) = router.prompts.rows(EASY[:1])
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row])).logits[0, -1, plain_tokens(tokenizer, PAIRWISE.plain)]
    np.testing.assert_allclose(router.probabilities(EASY[:1])[0], logits.softmax(-1), atol=1e-5)
    assert router.metadata["metrics"]["fit"] is None


def test_ratings_of_one_to_five_are_learned_as_labels(base: str) -> None:
    data = comparisons([*EASY, *HARD], [0.0] * 24 + [1.0] * 24, [5.0] * 24 + [1.5] * 24)
    router = fitted(base, data, form="scores", validation_share=0.0, epochs=6)
    easy, hard = (router.probabilities(prompts) for prompts in (EASY, HARD))
    assert easy[:, 4].mean() > 0.5
    assert hard[:, :2].sum(1).mean() > 0.5
    assert router.question.form == "scores"


def test_a_shared_prefix_gives_the_gradient_of_whole_rows() -> None:
    tokenizer = tiny_tokenizer()
    gradients = []
    for shares in (True, False):
        model = tiny_model(tokenizer)
        judge = taken_apart(model, tokenizer, plain_tokens(tokenizer, PAIRWISE.plain))
        tokens = PromptTokens(tokenizer, ask(PAIRWISE, tokenizer, 512))
        known = judged(comparisons([EASY[0], "hard " * 9], [0.3, -1]), PAIRWISE)
        examples = JudgedExamples(known, tokens, np.ones(3))
        trained = LabelModel(judge.body, judge, tokens.prefix if shares else tokens.prefix[:1])
        examples.losses(trained, np.arange(2)).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in trained.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_an_outcome_between_two_labels_is_some_of_both() -> None:
    known = judged(comparisons(["a", "b", "c", "d"], [1.0, 0.6, 0.0, -0.5]), PAIRWISE)
    np.testing.assert_allclose(known.target, np.array([[1, 0, 0], [0.6, 0.4, 0], [0, 1, 0], [0, 0.5, 0.5]]))
    np.testing.assert_allclose(known.target @ [1, 0.5, 0], known.outcome)
    rated = judged(comparisons(["a", "b", "c"], [0.0, 1, 1], [4.0, 1.5, np.nan]), SCORES)
    np.testing.assert_allclose(rated.target, np.array([[0, 0, 0, 1, 0], [0.5, 0.5, 0, 0, 0]]), atol=1e-12)


def test_rare_labels_weigh_more_within_bounds_and_the_bias_takes_it_back(base: str) -> None:
    data = comparisons([*EASY, *HARD[:2]], [0.0] * 24 + [1.0] * 2)
    weights = label_weights(judged(data, PAIRWISE))
    assert weights[0] > 4 * weights[1]
    assert weights.max() <= 16 * weights.min()
    assert weights @ np.array([2, 24, 0]) / 26 == pytest.approx(1)
    router = fitted(base, data, epochs=0.25, validation_share=0.0)
    np.testing.assert_allclose(router.judge.bias, -np.log(weights), atol=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        comparisons(["only one"], [1.0]),
        comparisons(EASY, [1.0] * 24),
        comparisons(["", "\ud800", "x" * 5000], [1, 0, -1]),
    ],
)
def test_poor_data_give_a_router_that_still_gives_numbers(base: str, data: Comparisons) -> None:
    for adapter in ("head", "lora"):
        rates = fitted(base, data, epochs=1, adapter=adapter).win_rates(["", *EASY[:3]], "strong", "weak")
        assert ((rates >= 0) & (rates <= 1)).all()


@pytest.mark.parametrize("adapter", ["head", "lora"])
def test_one_sided_data_give_a_router_that_says_so(base: str, adapter: str) -> None:
    data = comparisons(EASY, [1.0] * 24)
    rates = fitted(base, data, adapter=adapter, validation_share=0.0).win_rates(EASY, "strong", "weak")
    assert rates.min() > 0.8


def test_data_that_do_not_serve_are_refused(base: str) -> None:
    with pytest.raises(DataError, match="rating"):
        fitted(base, separable(), form="scores")
    with pytest.raises(DataError, match="say which is strong"):
        fitted(base, replace(separable(), pair=None))
    with pytest.raises(DataError, match="compares other with weak"):
        fitted(base, replace(separable(), pair=("other", "weak")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "essay"}, "form must be one of pairwise, scores"),
        ({"adapter": "prefix"}, "adapter"),
        ({"precision": "half"}, "precision"),
        ({"stored": "float64"}, "stored"),
        ({"balance": "upsample"}, "balance must be one of weights, downsample, none"),
        ({"rank": 0}, "rank"),
        ({"head_penalty": 0}, "head_penalty"),
        ({"epochs": -1}, "epochs"),
        ({"validation_share": 0.9}, "validation_share"),
        ({"learning_rate": 7}, "learning_rate"),
        ({"minibatch": 0}, "minibatch"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        CausalLLMOptions(**options)


def test_a_model_that_cannot_be_had_or_asked_is_named(base: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere cannot be loaded"):
        fitted(str(tmp_path / "nowhere"), separable())
    with pytest.raises(DataError, match=r"no\.gguf cannot be loaded"):
        fitted(str(tmp_path / "no.gguf"), separable())
    with pytest.raises(DataError, match="leaves"):
        fitted(base, separable(), max_tokens=64)
    with pytest.raises(DataError, match="tokens of 'two words'"):
        plain_tokens(tiny_tokenizer(), ["two words"])


def test_a_model_that_does_more_to_its_logits_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    model.lm_head.register_forward_hook(lambda _, inputs, logits: torch.tanh(logits / 3))
    with pytest.raises(DataError, match="logits"):
        taken_apart(model, tokenizer, plain_tokens(tokenizer, PAIRWISE.plain))


def test_the_method_can_be_named() -> None:
    assert method("causal_llm").options is CausalLLMOptions
    assert method("causal_llm").fit is fit


def test_downsampling_leaves_as_many_good_answers_as_others_and_the_bias_gives_them_back(base: str) -> None:
    data = comparisons([*EASY, *HARD[:6]], [0.0] * 24 + [1.0] * 6, [5.0, 4.0] * 12 + [1.0, 2.0, 3.0] * 2)
    known = judged(data, SCORES)
    kept, weights, share = balanced(known, SCORES.wins, "downsample", 3)
    assert (len(kept), weights.tolist()) == (12, [1] * 5)
    assert sum(prompt in HARD for prompt in kept.prompts) == 6
    np.testing.assert_allclose(share, [1, 1, 1, 0.25, 0.25])
    again, other = (balanced(known, SCORES.wins, "downsample", seed)[0].prompts for seed in (3, 4))
    assert kept.prompts == again != other
    router = fitted(base, data, form="scores", balance="downsample", epochs=0.25, validation_share=0.0)
    np.testing.assert_allclose(router.judge.bias, -np.log(share), atol=1e-6)
    assert router.metadata["data"]["labels"]["[[5]]"] == 12
    assert router.metadata["metrics"]["fitted_on"]["rows"] == 12


def test_one_sided_ratings_cannot_be_evened_out() -> None:
    known = judged(comparisons(EASY, [0.0] * 24, [5.0] * 24), SCORES)
    kept, _, share = balanced(known, SCORES.wins, "downsample", 0)
    assert (len(kept), share.tolist()) == (24, [1] * 5)
