"""Calibration of win rates: applied where held-out outcomes show that it helps, and never to turn a ranking around."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.routers.calibration import UNKNOWN_STD, Calibration
from tests.support.routers.labelled import sums
from training.data.comparisons import Comparisons
from training.data.labels import DataError
from training.fit.calibration import LEAST_HELD_OUT, calibrated, hold_out

Vector = npt.NDArray[np.float64]


def sigmoid(z: Vector) -> Vector:
    rates: Vector = 1 / (1 + np.exp(-z))
    return rates


def outcomes(truth: Vector, seed: int = 1) -> Vector:
    return (np.random.default_rng(seed).random(len(truth)) < truth).astype(float)


def odds(n: int, spread: float = 1.5) -> Vector:
    return np.random.default_rng(0).normal(0, spread, n)


def test_overconfident_win_rates_are_drawn_in() -> None:
    z = odds(4000)
    truth = sigmoid(z)
    actual, measured = calibrated(sigmoid(3 * z + 1), outcomes(truth), np.ones(len(z)), seed=0)
    assert measured["applied"]
    assert measured["error_after"] < measured["error_before"] - measured["standard_error"]
    assert actual.scale == pytest.approx(1 / 3, rel=0.15)
    assert np.abs(actual.apply(sigmoid(3 * z + 1)) - truth).mean() < 0.02
    assert actual.std < 0.03
    assert json.loads(json.dumps(measured)) == {
        **{name: measured[name] for name in ("applied", "error_before", "error_after", "standard_error")},
        **{"held_out": 4000, "scale": actual.scale, "offset": actual.offset, "std": actual.std},
    }


def test_win_rates_that_are_right_are_left_alone() -> None:
    z = odds(2000)
    kept = [calibrated(sigmoid(z), outcomes(sigmoid(z), seed), np.ones(len(z)), seed=seed) for seed in range(5)]
    for actual, measured in kept:
        assert actual.std < 0.05
        assert measured["error_after"] >= measured["error_before"] - 2 * measured["standard_error"]
    assert sum(measured["applied"] for _, measured in kept) <= 1
    assert kept[0][0].scale == 1.0


def test_a_ranking_that_is_the_wrong_way_round_is_flattened_and_not_turned() -> None:
    z = odds(2000)
    actual, _ = calibrated(sigmoid(z), outcomes(sigmoid(-z)), np.ones(len(z)), seed=0)
    assert actual.scale == pytest.approx(0.1)
    assert (np.diff(actual.apply(np.linspace(0, 1, 50))) > 0).all()


def test_what_a_win_rate_is_off_by_is_measured_beyond_chance() -> None:
    z = odds(20_000)
    truth = 0.5 + 0.2 * np.sin(3 * z)  # no line through log-odds helps
    actual, _ = calibrated(sigmoid(z), outcomes(truth), np.ones(len(z)), seed=0)
    assert 0.05 < actual.std < 0.25


def test_few_comparisons_leave_more_doubt_than_many() -> None:
    z = odds(5000)
    won = outcomes(sigmoid(z))
    std = [calibrated(sigmoid(z[:n]), won[:n], np.ones(n), seed=0)[0].std for n in (100, 500, 5000)]
    assert std[0] > std[1] > std[2] > 0.003
    assert std[0] < 0.15


@pytest.mark.parametrize("n", [0, 1, LEAST_HELD_OUT - 1])
def test_too_few_comparisons_say_nothing(n: int) -> None:
    actual, measured = calibrated(np.full(n, 0.9), np.zeros(n), np.ones(n), seed=0)
    assert actual == Calibration(1.0, 0.0, UNKNOWN_STD)
    assert (measured["applied"], measured["held_out"], measured["error_before"]) == (False, n, None)


@pytest.mark.parametrize("outcome", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_one_sided_data_and_constant_rates_stay_finite(rate: float, outcome: float) -> None:
    actual, _ = calibrated(np.full(500, rate), np.full(500, outcome), np.ones(500), seed=0)
    rates = actual.apply(np.array([0.0, rate, 1.0]))
    assert np.isfinite([actual.scale, actual.offset, actual.std]).all()
    assert ((rates >= 0) & (rates <= 1)).all()
    assert abs(rates[1] - outcome) <= 0.05


def test_a_comparison_of_weight_two_counts_as_two() -> None:
    z = odds(1000)
    rates, won = sigmoid(2 * z), outcomes(sigmoid(z))
    weight = np.where(np.arange(1000) < 500, 2.0, 1.0)
    weighted, _ = calibrated(rates, won, weight, seed=0)
    doubled = np.r_[np.arange(1000), np.arange(500)]
    repeated, _ = calibrated(rates[doubled], won[doubled], np.ones(1500), seed=0)
    assert weighted.scale == pytest.approx(repeated.scale, rel=1e-2)
    assert weighted.offset == pytest.approx(repeated.offset, abs=1e-2)


def test_win_rates_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="not all finite"):
        calibrated(np.array([0.5, np.nan]), np.zeros(2), np.ones(2), seed=0)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_any_held_out_data_give_a_calibration_that_an_artifact_may_hold(seed: int, scale: float, offset: float) -> None:
    draw = np.random.default_rng(seed)
    rates = sigmoid(np.clip(scale * draw.normal(size=150) + offset, -700, 700))
    outcome, weight = draw.random(150), draw.random(150) + 1e-6
    actual, _ = calibrated(rates, outcome, weight, seed=seed)
    assert Calibration.from_dict(actual.as_dict()) == actual
    assert calibrated(rates, outcome, weight, seed=seed)[0] == actual


def test_what_is_held_out_differs_from_what_the_caller_holds_out_with_the_same_seed() -> None:
    data = Comparisons.from_labels(sums(400))
    _, kept = data.split(0.5, seed=3)
    held, rest = hold_out(kept, 0.5, seed=3)
    assert len(held) == pytest.approx(len(kept) / 2, rel=0.2)
    assert len(held) + len(rest) == len(kept)
    assert not set(held.prompts) & set(rest.prompts)
