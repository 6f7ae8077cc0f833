"""Tiers of models: the clusters of least summed variance, from the weakest model up, and the labels that they give.

The two highest tiers are strong, the third is weak, and only battles between them count.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.routers.vectors import by_topic, comparisons
from training.data.comparisons import ROLES
from training.data.labels import DataError
from training.fit.rated import usable
from training.fit.tiers import by_tier, rate, tiers_of

RATINGS = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=9)


def summed_variance(ratings: list[float], tiers: list[int]) -> float:
    values = np.array(ratings)
    return float(sum(np.var(values[np.equal(tiers, tier)]) for tier in set(tiers)))


def least(ratings: list[float], count: int) -> float:
    """By trying every way to cut the sorted ratings."""
    values = sorted(ratings)
    cuts = combinations(range(1, len(values)), count - 1)
    return min(sum(float(np.var(run)) for run in np.split(values, list(cut))) for cut in cuts)


def routellm_tiers(ratings: list[float], count: int) -> list[int]:
    """RouteLLM 0.2.0's `compute_tiers` on ratings from the strongest down, in its own loops."""
    n = len(ratings)
    cost, split = np.zeros((n, n, count)), np.zeros((n, n, count), int)
    for i in range(n):
        for j in range(i + 1, n):
            cost[i, j, 0] = np.var(ratings[i : j + 1])
    for tier in range(1, count):
        for i in range(n):
            for j in range(i + 1, n):
                cost[i, j, tier] = 1e9
                for cut in range(i, j):
                    if cost[i, j, tier] > cost[i, cut, tier - 1] + cost[cut + 1, j, 0]:
                        split[i, j, tier] = cut
                        cost[i, j, tier] = cost[i, cut, tier - 1] + cost[cut + 1, j, 0]
    ends, left = [n - 1], n
    for tier in range(count - 1, 0, -1):
        ends.append(int(split[0, left - 1, tier]))
        left = ends[-1] + 1
    return [int(run) for run in np.searchsorted(ends[::-1], np.arange(n))]


@given(RATINGS, st.integers(1, 5))
def test_no_other_clusters_have_less_variance(ratings: list[float], count: int) -> None:
    tiers = tiers_of(np.array(ratings), count).tolist()
    count = min(count, len(ratings))
    assert sorted(set(tiers)) == list(range(count))
    assert summed_variance(ratings, tiers) == pytest.approx(least(ratings, count), abs=1e-9)


@given(RATINGS, st.integers(2, 5))
def test_a_better_model_is_never_in_a_lower_tier(ratings: list[float], count: int) -> None:
    tiers = tiers_of(np.array(ratings), count)
    assert (np.diff(tiers[np.argsort(ratings, kind="stable")]) >= 0).all() or len(set(ratings)) < len(ratings)


@pytest.mark.parametrize("seed", range(5))
def test_the_tiers_are_routellms_numbered_from_the_weakest(seed: int) -> None:
    ratings = np.sort(np.random.default_rng(seed).normal(size=30))[::-1]
    assert tiers_of(ratings, 10).tolist() == [9 - tier for tier in routellm_tiers(ratings.tolist(), 10)]


def test_fewer_models_than_tiers_are_a_tier_each() -> None:
    assert tiers_of(np.array([1.0, -1.0]), 10).tolist() == [1, 0]
    assert tiers_of(np.array([3.0]), 10).tolist() == [0]
    assert sorted(tiers_of(np.zeros(3), 10).tolist()) == [0, 1, 2]


def test_ratings_follow_who_beats_whom() -> None:
    rated = rate(usable(by_topic(600, models=5)))
    assert [rated.names[i] for i in np.argsort(rated.ratings)] == ["m0", "m1", "m2", "m3", "m4"]
    assert rated.tiers == tuple(int(name[1]) for name in rated.names)


def test_a_model_that_never_won_and_models_that_never_met_get_finite_ratings() -> None:
    rated = rate(usable(comparisons([("p", "a", "b", 1.0), ("q", "c", "d", 0.5)])))
    assert np.isfinite(rated.ratings).all()
    ratings = dict(zip(rated.names, rated.ratings, strict=True))
    assert ratings["a"] > ratings["c"] > ratings["b"]
    assert ratings["d"] == pytest.approx(ratings["c"], abs=1e-9)


def test_ratings_do_not_depend_on_the_order_of_the_comparisons() -> None:
    draw = np.random.default_rng(0)
    names = [f"m{i}" for i in range(40)]
    rows = [("p", *draw.choice(names, 2, replace=False), float(draw.choice([0, 0.5, 1]))) for _ in range(2000)]
    there, back = (rate(usable(comparisons(order))) for order in (rows, rows[::-1]))
    ratings = dict(zip(back.names, back.ratings, strict=True))
    assert [ratings[name] for name in there.names] == pytest.approx(there.ratings, abs=1e-9)


LADDER = [("p", f"m{a}", f"m{b}", 0.8) for a in range(12) for b in range(a)]  # a higher number wins mostly


def test_strong_are_the_two_highest_of_ten_tiers_and_weak_the_third() -> None:
    battles = by_tier(comparisons(LADDER), tiers=10)
    assert len(battles.strong) >= 2
    assert "m11" in battles.strong
    numbers = sorted(int(name[1:]) for name in battles.strong + battles.weak)
    assert numbers == list(range(12 - len(numbers), 12))  # the best ones, none left out in between
    assert max(int(name[1:]) for name in battles.weak) == min(int(name[1:]) for name in battles.strong) - 1
    assert len(battles.comparisons) == len(battles.strong) * len(battles.weak)
    assert battles.rows == len(LADDER)


def test_outcomes_are_those_of_the_strong_one_whichever_side_it_stands_on() -> None:
    rows = [("p", "a", "c", 0.9), ("q", "c", "b", 0.25), ("r", "a", "b", 0.6), ("s", "c", "d", 0.9), ("t", "d", "a", 0)]
    battles = by_tier(comparisons(rows, weight=[1, 2, 3, 4, 5]))
    assert (sorted(battles.strong), battles.weak) == (["a", "b"], ["c"])
    labels = battles.comparisons.labels()
    assert labels.prompts == ["p", "q"]
    np.testing.assert_allclose(labels.gain, [0.8, 0.5])
    np.testing.assert_allclose(labels.weight, [1, 2])
    assert battles.comparisons.pair == ROLES
    assert battles.as_dict()["other_tiers"] == 3


def test_a_pair_that_was_named_does_not_matter() -> None:
    plain, named = (by_tier(by_topic(300, models=6, pair=pair)) for pair in (None, ("m5", "m0")))
    assert plain.comparisons.fingerprint() == named.comparisons.fingerprint()


def test_too_few_models_or_battles_are_refused() -> None:
    with pytest.raises(DataError, match="3 models or more"):
        by_tier(comparisons([("p", "a", "b", 1)]))
    apart = [("p", "a", "b", 0.6), ("q", "b", "d", 0.9), ("r", "c", "d", 0.7)]
    with pytest.raises(DataError, match=r"no battle is between the strong models \(a, b\) and the weak \(c\)"):
        by_tier(comparisons(apart))
