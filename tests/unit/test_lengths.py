"""Output lengths learned from settled answers: better than one constant, with a quantile that covers."""

from __future__ import annotations

import numpy as np
import pytest

from routing_service.errors import ArtifactError
from routing_service.lengths import LEAST_ROWS, LengthModel, fit
from tests.unit.labelled import ODD


def answered(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Lists are long, yes-or-no questions short; both vary."""
    draw = np.random.default_rng(seed)
    long = draw.random(n) < 0.5
    prompts = [
        f"List {k} reasons, each with an example and a source, why item {k} matters." if is_long else f"Is {k} even?"
        for k, is_long in enumerate(long)
    ]
    return prompts, np.rint(draw.lognormal(np.where(long, 6, 2), 0.4)).astype(int).tolist()


@pytest.fixture(scope="module")
def model() -> LengthModel:
    return fit(*answered(1000))


def test_it_is_far_nearer_than_a_constant_and_says_so(model: LengthModel) -> None:
    assert model.metrics["r2"] > 0.8
    assert model.metrics["median_error"] < 0.4 < 1 < model.metrics["median_error_of_constant"]


def test_the_mean_is_right_on_new_prompts_and_nine_in_ten_stay_within_the_upper_quantile(model: LengthModel) -> None:
    prompts, length = answered(1000, seed=1)
    assert model.mean(prompts).sum() == pytest.approx(sum(length), rel=0.1)
    assert np.mean(model.upper(prompts) >= length) == pytest.approx(0.9, abs=0.04)


def test_a_model_survives_its_bytes_and_is_the_same_when_fitted_again(model: LengthModel) -> None:
    prompts, _ = answered(20, seed=2)
    for other in (LengthModel.from_bytes(model.to_bytes()), fit(*answered(1000))):
        assert other.mean(prompts).tolist() == model.mean(prompts).tolist()
        assert other.upper(prompts).tolist() == model.upper(prompts).tolist()


def test_odd_prompts_and_none_get_finite_lengths(model: LengthModel) -> None:
    for lengths in (model.mean(ODD), model.upper(ODD)):
        assert np.isfinite(lengths).all()
        assert (lengths >= 1).all()
    assert model.mean([]).shape == (0,)


def test_answers_of_one_length_are_predicted_at_that_length() -> None:
    prompts, _ = answered(LEAST_ROWS)
    lengths = fit(prompts, [1] * LEAST_ROWS)
    assert lengths.mean(prompts) == pytest.approx(1, abs=0.01)


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="500"):
        fit(*answered(LEAST_ROWS - 1))


@pytest.mark.parametrize("data", [b"", b"{}", bytes(100)])
def test_damaged_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        LengthModel.from_bytes(data)
