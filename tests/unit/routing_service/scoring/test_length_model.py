"""Output lengths learned from settled answers: better than one constant, with a quantile that covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from routing_service.errors import ArtifactError
from routing_service.routers.gain.text_features import Matrix, features, recent_features, tokens
from routing_service.scoring.length_model import LEAST_ROWS, LengthModel, fit, prompt_features
from tests.support.routers.labelled import ODD


def answered(n: int, seed: int = 0) -> tuple[Matrix, list[int]]:
    """Prompts as they are seen, and tokens. Lists are long, yes-or-no questions short; both vary."""
    draw = np.random.default_rng(seed)
    long = draw.random(n) < 0.5
    prompts = [
        f"List {k} reasons, each with an example and a source, why item {k} matters." if is_long else f"Is {k} even?"
        for k, is_long in enumerate(long)
    ]
    return prompt_features(prompts), np.rint(draw.lognormal(np.where(long, 6, 2), 0.4)).astype(int).tolist()


@pytest.fixture(scope="module")
def model() -> LengthModel:
    return fit(*answered(1000))


def test_it_is_far_nearer_than_a_constant_and_says_so(model: LengthModel) -> None:
    assert model.metrics["r2"] > 0.8
    assert model.metrics["median_error"] < 0.4 < 1 < model.metrics["median_error_of_constant"]


def test_the_mean_is_right_on_new_prompts_and_nine_in_ten_stay_within_the_upper_quantile(model: LengthModel) -> None:
    raw, length = answered(1000, seed=1)
    assert model.mean(raw).sum() == pytest.approx(sum(length), rel=0.1)
    assert 0.87 < np.mean(model.upper(raw) >= length) < 0.96


def test_a_model_survives_its_bytes_and_is_the_same_when_fitted_again(model: LengthModel) -> None:
    raw, _ = answered(20, seed=2)
    for other in (LengthModel.from_bytes(model.to_bytes()), fit(*answered(1000))):
        assert other.mean(raw).tolist() == model.mean(raw).tolist()
        assert other.upper(raw).tolist() == model.upper(raw).tolist()


def test_odd_prompts_and_none_get_finite_lengths(model: LengthModel) -> None:
    odd = prompt_features(ODD)
    for lengths in (model.mean(odd), model.upper(odd)):
        assert np.isfinite(lengths).all()
        assert (lengths >= 1).all()
    assert model.mean(odd).max() <= model.longest
    assert model.mean(prompt_features([])).shape == (0,)


def test_the_coverage_it_claims_is_that_of_answers_it_has_not_seen() -> None:
    claimed, true = [], []
    raw, length = answered(3000, seed=9)
    for seed in range(6):
        model = fit(*answered(LEAST_ROWS, seed=seed))
        claimed.append(model.metrics["coverage"])
        true.append(np.mean(model.upper(raw) >= length))
    assert np.mean(claimed) == pytest.approx(np.mean(true), abs=0.04)
    assert np.mean(true) >= 0.88


def test_answers_of_one_length_are_predicted_at_that_length() -> None:
    raw, _ = answered(LEAST_ROWS)
    lengths = fit(raw, [1] * LEAST_ROWS)
    assert lengths.mean(raw) == pytest.approx(1, abs=0.01)


def test_where_prompts_do_not_tell_lengths_every_answer_is_expected_at_the_mean() -> None:
    raw, _ = answered(1000)
    lengths = np.random.default_rng(5).geometric(1 / 80, 1000)
    model = fit(raw, lengths.tolist())
    assert model.mean(raw) == pytest.approx(lengths.mean(), rel=0.15)
    assert model.metrics["mean_tokens"] == lengths.mean()


def test_features_that_were_just_computed_are_not_computed_again() -> None:
    prompts = [f"What is {n} plus {n}?" for n in range(20)]
    known = features(prompts, tokens(prompts))
    assert recent_features(prompts) is known
    assert not known.flags.writeable
    other = recent_features([*prompts[:-1], "What is it?"])
    assert not np.array_equal(other, known)
    for n in range(10):
        recent_features([f"What is {n}?"])
    assert recent_features(prompts) is not known
    assert np.array_equal(recent_features(prompts), known)


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="500"):
        fit(*answered(LEAST_ROWS - 1))


@pytest.mark.parametrize("data", [b"", b"{}", bytes(100)])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        LengthModel.from_bytes(data)


def test_a_model_of_numbers_that_are_not_finite_is_refused(model: LengthModel) -> None:
    broken = replace(model, weight=np.full_like(model.weight, np.nan))
    with pytest.raises(ArtifactError, match="not finite"):
        LengthModel.from_bytes(broken.to_bytes())
