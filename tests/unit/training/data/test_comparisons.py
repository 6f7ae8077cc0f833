"""Comparisons of any models: what stays together when they are taken and split, and the labels of a pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.routers.labelled import labels, sums
from training.data.comparisons import ROLES, Comparisons
from training.data.labels import DataError

THREE = ["big", "small", "other"]


def comparisons(*rows: tuple[str, str, str, float], pair: tuple[str, str] | None = None) -> Comparisons:
    """Rows of prompt, model_a, model_b, outcome."""
    prompts = list(dict.fromkeys(row[0] for row in rows))
    place = {prompt: number for number, prompt in enumerate(prompts)}
    index = [(place[prompt], THREE.index(a), THREE.index(b)) for prompt, a, b, _ in rows]
    prompt, model_a, model_b = np.array(index, np.int32).reshape(-1, 3).T
    outcome = np.array([row[3] for row in rows], float)
    return Comparisons(
        prompts, THREE, prompt, model_a, model_b, outcome, np.ones(len(rows)), ["golden"] * len(rows), pair
    )


FOUR = comparisons(
    ("one", "big", "small", 1),
    ("two", "small", "big", 1),
    ("one", "small", "big", 0.25),
    ("three", "other", "big", 1),
    pair=("big", "small"),
)


def test_labels_are_those_of_the_pair_turned_towards_strong() -> None:
    actual = FOUR.labels()
    assert actual.prompts == ["one", "two", "one"]
    assert actual.gain.tolist() == [1, -1, 0.5]
    rows, outcome = FOUR.of_pair()
    assert rows.tolist() == [0, 1, 2]
    assert outcome.tolist() == [1, 0, 0.75]


def test_without_a_pair_the_most_common_ones_are_listed() -> None:
    with pytest.raises(DataError, match=r"say which is strong .* big / small \(3 rows\), big / other \(1 rows\)$"):
        replace(FOUR, pair=None).labels()
    assert len(replace(FOUR, pair=None).of_pair()[0]) == 0


def test_a_pair_that_was_never_compared_has_no_labels() -> None:
    for pair in (("small", "other"), ("big", "unheard"), ("big", "big")):
        with pytest.raises(DataError, match=f"no usable row compares {pair[0]} with {pair[1]}.* big / small"):
            replace(FOUR, pair=pair).labels()
    with pytest.raises(DataError, match="there are no rows"):
        FOUR.take([]).labels()


def test_what_is_taken_keeps_its_prompts_models_and_ratings() -> None:
    rated = replace(FOUR, rating=np.array([np.nan, 4, 1, 2.5]))
    taken = rated.take([3, 1])
    assert [taken.prompts[i] for i in taken.prompt] == ["three", "two"]
    assert sorted(taken.prompts) == ["three", "two"]
    assert [taken.models[i] for i in taken.model_a] == ["other", "small"]
    assert taken.rating is not None
    assert taken.rating.tolist() == [2.5, 4]
    assert (taken.pair, taken.outcome.tolist()) == (("big", "small"), [1, 1])
    assert FOUR.take([3, 1]).rating is None


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.floats(0, 1), st.integers(0, 5))
def test_a_split_keeps_every_comparison_and_no_prompt_on_both_sides(
    prompts: list[str], fraction: float, seed: int
) -> None:
    whole = comparisons(*((prompt, "big", "small", 0.5) for prompt in prompts))
    first, rest = whole.split(fraction, seed)
    actual = [part.prompts[i] for part in (first, rest) for i in part.prompt]
    assert sorted(actual) == sorted(prompts)
    assert not set(first.prompts) & set(rest.prompts)


def test_a_split_goes_by_seed_and_within_bounds() -> None:
    whole = Comparisons.from_labels(sums(2000))
    first, _ = whole.split(0.25, 0)
    assert len(first) == pytest.approx(500, rel=0.15)
    assert first.prompts != whole.split(0.25, 1)[0].prompts
    with pytest.raises(ValueError, match="within 0 and 1"):
        whole.split(-0.1, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ["one", "two", "3"]},
        {"models": ["big", "small", "another"]},
        {"prompt": np.array([0, 1, 1, 2], np.int32)},
        {"model_a": np.array([0, 1, 2, 2], np.int32)},
        {"outcome": np.array([1, 1, 0.25, 0.5])},
        {"weight": np.array([1, 1, 1, 2.0])},
        {"source": ["golden", "golden", "golden", "judge"]},
        {"pair": None},
        {"pair": ("small", "big")},
        {"rating": np.array([1.0, 2, 3, 4])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_changes_with_anything_a_router_is_fitted_on(change: dict[str, Any]) -> None:
    assert replace(FOUR, **change).fingerprint() != FOUR.fingerprint()
    assert replace(FOUR).fingerprint() == FOUR.fingerprint()


def test_labels_make_comparisons_whose_labels_they_are() -> None:
    of = labels(["a", "b", "a"], [1, -0.5, 0], [1, 2, 3])
    made = Comparisons.from_labels(of)
    assert (made.prompts, made.models, made.pair) == (["a", "b"], list(ROLES), ROLES)
    actual = made.labels()
    assert (actual.prompts, actual.gain.tolist(), actual.weight.tolist()) == (of.prompts, [1, -0.5, 0], [1, 2, 3])


def test_comparisons_that_say_the_same_of_each_model_are_refused() -> None:
    one_sided = (
        [("one", "big", "small", 1.0)],
        [("one", "big", "small", 1.0), ("two", "small", "big", 0.0)],
        [("one", "big", "small", 0.5), ("two", "other", "big", 0.5)],
        [("one", "big", "small", 1.0), ("two", "big", "other", 1.0)],
    )
    for rows in one_sided:
        with pytest.raises(DataError, match="say the same"):
            comparisons(*rows).require_contrast()
    with pytest.raises(DataError, match="no comparisons"):
        FOUR.take([]).require_contrast()
    FOUR.require_contrast()
    comparisons(("one", "big", "small", 1.0), ("two", "small", "other", 1.0)).require_contrast()


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        replace(FOUR, weight=np.ones(3))
    with pytest.raises(ValueError, match="as many"):
        replace(FOUR, rating=np.ones(3))
