"""The weighted Bradley-Terry problem: the greatest likelihood, and a finite answer where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from routing_service.routers.bradley_terry.strengths import is_regular, solve, steadied, total_wins

Battles = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


def battles(rows: list[tuple[int, int, float]]) -> Battles:
    first, second, outcome = (np.array([row[place] for row in rows]) for place in range(3))
    return first, second, outcome.astype(float), np.ones(len(rows))


def drawn(rivals: int, n: int, seed: int) -> Battles:
    draw = np.random.default_rng(seed)
    first, second = draw.integers(rivals, size=(2, n))
    return first, second, draw.choice([0, 0.3, 0.5, 1], n), draw.uniform(0.1, 5, n)


def loss_of(given: Battles, strength: npt.NDArray[np.float64]) -> float:
    """The negative log-likelihood as RouteLLM's logistic regression has it, row by row."""
    first, second, outcome, weight = given
    x = np.where(first == second, -strength[second], strength[first] - strength[second])
    return float(2 * weight @ (np.logaddexp(0, x) - outcome * x))


@pytest.mark.parametrize("seed", range(3))
def test_the_strengths_are_those_of_the_greatest_likelihood(seed: int) -> None:
    given = drawn(5, 200, seed)
    solution = solve(total_wins(*given, 5))
    reference = minimize(
        lambda x: loss_of(given, x), np.zeros(5), method="BFGS", options={"gtol": 1e-9, "xrtol": 1e-12}
    )
    assert solution == pytest.approx(reference.x, abs=1e-5)
    assert loss_of(given, solution) <= reference.fun + 1e-9


def test_two_rivals_differ_by_the_logarithm_of_their_odds() -> None:
    given = battles([(0, 1, 1.0)] * 3 + [(1, 0, 1.0)])
    strength = solve(total_wins(*given, 2))
    assert strength[0] - strength[1] == pytest.approx(np.log(3), abs=1e-12)


def test_a_tie_is_half_a_win_each_way() -> None:
    ties, wins = battles([(0, 1, 0.5)] * 2 + [(0, 1, 1.0)]), battles([(0, 1, 1.0)] * 2 + [(1, 0, 1.0)])
    assert solve(total_wins(*ties, 2)) == pytest.approx(solve(total_wins(*wins, 2)))


def test_many_problems_at_once_are_the_same_as_one_by_one() -> None:
    given = np.stack([total_wins(*drawn(4, 60, seed), 4) for seed in range(8)])
    together = solve(given)
    assert together == pytest.approx(np.stack([solve(one) for one in given]), abs=1e-9)


def test_the_start_does_not_matter() -> None:
    sums = total_wins(*drawn(6, 300, 1), 6)
    assert solve(sums, np.linspace(-30, 30, 6)) == pytest.approx(solve(sums), abs=1e-8)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_regular_problems_end_where_the_gradient_is_zero(rivals: int, seed: int) -> None:
    first, second, outcome, weight = drawn(rivals, 20 * rivals, seed)
    weight = weight ** np.random.default_rng(seed).integers(1, 6)
    if is_regular(total_wins(first, second, outcome, weight, rivals)):
        given = (first, second, outcome, weight)
        at = solve(total_wins(*given, rivals))
        for rival in range(rivals):
            aside = at.copy()
            for step in (-1e-3, 1e-3):
                aside[rival] = at[rival] + step
                assert loss_of(given, aside) >= loss_of(given, at) - 1e-9


@pytest.mark.parametrize(
    ("rows", "regular"),
    [
        ([(0, 1, 1.0)], False),
        ([(0, 1, 0.5)], True),
        ([(0, 1, 1.0), (1, 0, 1.0)], True),
        ([(0, 1, 1.0), (1, 2, 1.0)], False),
        ([(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)], True),  # each has beaten each by way of the others
        ([(0, 1, 0.5), (2, 3, 0.5)], False),  # who never met cannot be compared
        ([(0, 1, 0.5), (0, 0, 1.0)], False),  # the reference has only won
        ([(0, 1, 0.5), (0, 0, 0.5)], True),
    ],
)
def test_which_problems_have_finite_strengths(rows: list[tuple[int, int, float]], regular: bool) -> None:
    rivals = max(max(row[:2]) for row in rows) + 1
    assert is_regular(total_wins(*battles(rows), rivals)) is regular


def test_what_is_not_determined_is_made_so_by_a_tie_with_the_reference() -> None:
    one_sided = total_wins(*battles([(0, 1, 1.0)]), 2)
    strength = solve(steadied(one_sided, 1.0))
    assert 0.5 < 1 / (1 + np.exp(strength[1] - strength[0])) < 0.9
    undetermined = solve(one_sided)
    assert np.isfinite(undetermined).all()
    assert undetermined[0] - undetermined[1] > 10


def test_a_rival_of_whom_nothing_is_known_stays_where_it_is() -> None:
    strength = solve(total_wins(*battles([(0, 1, 1.0), (1, 0, 1.0)]), 3))
    assert strength.tolist() == [0, 0, 0]
