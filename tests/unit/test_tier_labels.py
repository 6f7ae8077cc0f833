"""Labels by tier: the two highest tiers are strong, the third is weak, and only their battles count."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.vectors import by_topic, comparisons
from training.data.comparisons import ROLES
from training.data.labels import DataError
from training.fit.tiers import by_tier

LADDER = [("p", f"m{a}", f"m{b}", 0.8) for a in range(12) for b in range(a)]  # a higher number wins mostly


def test_strong_are_the_two_highest_of_ten_tiers_and_weak_the_third() -> None:
    found = by_tier(comparisons(LADDER), tiers=10)
    assert len(found.strong) >= 2
    assert "m11" in found.strong
    numbers = sorted(int(name[1:]) for name in found.strong + found.weak)
    assert numbers == list(range(12 - len(numbers), 12))  # the best ones, none left out in between
    assert max(int(name[1:]) for name in found.weak) == min(int(name[1:]) for name in found.strong) - 1
    assert len(found.comparisons) == len(found.strong) * len(found.weak)
    assert found.rows == len(LADDER)


def test_outcomes_are_those_of_the_strong_one_whichever_side_it_stands_on() -> None:
    rows = [("p", "a", "c", 0.9), ("q", "c", "b", 0.25), ("r", "a", "b", 0.6), ("s", "c", "d", 0.9), ("t", "d", "a", 0)]
    found = by_tier(comparisons(rows, weight=[1, 2, 3, 4, 5]))
    assert (sorted(found.strong), found.weak) == (["a", "b"], ["c"])
    labels = found.comparisons.labels()
    assert labels.prompts == ["p", "q"]
    np.testing.assert_allclose(labels.gain, [0.8, 0.5])
    np.testing.assert_allclose(labels.weight, [1, 2])
    assert found.comparisons.pair == ROLES
    assert found.as_dict()["other_tiers"] == 3


def test_a_pair_that_was_named_does_not_matter() -> None:
    plain, named = (by_tier(by_topic(300, models=6, pair=pair)) for pair in (None, ("m5", "m0")))
    assert plain.comparisons.fingerprint() == named.comparisons.fingerprint()


def test_too_few_models_or_battles_are_refused() -> None:
    with pytest.raises(DataError, match="3 models or more"):
        by_tier(comparisons([("p", "a", "b", 1)]))
    apart = [("p", "a", "b", 0.6), ("q", "b", "d", 0.9), ("r", "c", "d", 0.7)]
    with pytest.raises(DataError, match=r"no battle is between the strong models \(a, b\) and the weak \(c\)"):
        by_tier(comparisons(apart))
