"""Off-policy estimates from paired samples: unbiased, and their intervals hold."""

from __future__ import annotations

import numpy as np
import pytest

from routing_service.exploration.explore import Population, draw
from training.off_policy import weighted_mean

RUNS = 600


def _traffic() -> list[tuple[Population, np.ndarray]]:
    """Two batches of other sizes and other differences of quality; the dear lines are those that gain most."""
    rng = np.random.default_rng(3)
    batches = []
    for n, shift in ((60, 0.5), (400, -0.2)):
        gain = np.clip(rng.normal(shift, 0.5, n), -1, 1)
        expected = (100 + 400 * (gain > 0.3)).astype(np.int64)
        batches.append((Population(np.arange(1, n + 1), expected, 3 * expected, np.full(n, 10)), gain))
    return batches


def _sample(batches: list[tuple[Population, np.ndarray]], run: int) -> tuple[np.ndarray, np.ndarray]:
    """The first batch is sampled at 30 %, the second as far as its money goes."""
    values, propensities = [], []
    for number, (population, gain) in enumerate(batches):
        sample = draw(population, 0.3, 10**9 if number == 0 else 12_000, 1000 * run + number)
        values.append(gain[np.array(sample.lines) - 1])
        propensities.append(np.full(len(sample.lines), sample.propensity))
    return np.concatenate(values), np.concatenate(propensities)


def test_the_weighted_mean_is_unbiased_where_the_plain_one_is_not() -> None:
    batches = _traffic()
    truth = float(np.concatenate([gain for _, gain in batches]).mean())
    samples = [_sample(batches, run) for run in range(RUNS)]
    known = [weighted_mean(values, propensity, population=460).mean for values, propensity in samples]
    found = [weighted_mean(values, propensity).mean for values, propensity in samples]
    plain = [values.mean() for values, _ in samples]
    error = float(np.std(known)) / RUNS**0.5
    assert abs(np.mean(known) - truth) < 3 * error
    assert abs(np.mean(found) - truth) < 0.02
    assert abs(np.mean(plain) - truth) > 0.1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    batches = _traffic()
    truth = float(np.concatenate([gain for _, gain in batches]).mean())
    estimates = [weighted_mean(*_sample(batches, run)) for run in range(RUNS)]
    assert np.mean([e.low <= truth <= e.high for e in estimates]) > 0.92


@pytest.mark.parametrize("propensity", [[], [0.0], [1.5], [float("nan")]])
def test_what_is_no_sample_is_refused(propensity: list[float]) -> None:
    with pytest.raises(ValueError, match="propensities"):
        weighted_mean(np.ones(len(propensity)), np.array(propensity))
