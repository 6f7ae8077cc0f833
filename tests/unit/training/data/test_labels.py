"""Labels: what may be fitted on, what identifies them, and how they are split by prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.labels import DataError, Labels, fingerprint, require_contrast, split


def labels(gain: list[float], prompts: list[str] | None = None) -> Labels:
    prompts = prompts or [f"prompt {n}" for n in range(len(gain))]
    return Labels(prompts, np.array(gain, float), np.ones(len(gain)), ["golden"] * len(gain))


def test_labels_that_all_say_the_same_are_refused() -> None:
    for gain in ([1.0], [0.5, 0.5], [0.0] * 9):
        with pytest.raises(DataError, match="say the same"):
            require_contrast(labels(gain))
    with pytest.raises(DataError, match="no labels"):
        require_contrast(labels([]))
    require_contrast(labels([1, 0]))


def test_the_fingerprint_changes_with_anything_a_router_is_fitted_on() -> None:
    base = labels([1, 0])
    others = [
        labels([1, 0.5]),
        labels([1, 0], ["prompt 0", "another"]),
        labels([0, 1]),
        labels([1, 0], ["prompt 0p", "rompt 1"]),
        Labels(base.prompts, base.gain, base.weight * 2, base.source),
        Labels(base.prompts, base.gain, base.weight, ["golden", "judge"]),
    ]
    assert len({fingerprint(one) for one in [base, *others]}) == 7
    assert fingerprint(labels([1, 0])) == fingerprint(base)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=50), st.floats(0, 1), st.integers(0, 5))
def test_a_split_keeps_every_label_and_no_prompt_on_both_sides(prompts: list[str], fraction: float, seed: int) -> None:
    whole = labels([0.5] * len(prompts), prompts)
    first, rest = split(whole, fraction, seed)
    assert sorted(first.prompts + rest.prompts) == sorted(prompts)
    assert not set(first.prompts) & set(rest.prompts)
    again, _ = split(whole.take(range(len(prompts))[::-1]), fraction, seed)
    assert sorted(again.prompts) == sorted(first.prompts)


def test_a_split_takes_about_its_fraction_and_another_seed_another_part() -> None:
    whole = labels([0.0] * 4000)
    first, _ = split(whole, 0.25, 0)
    assert len(first) == pytest.approx(1000, rel=0.1)
    assert first.prompts != split(whole, 0.25, 1)[0].prompts
    with pytest.raises(ValueError, match="within 0 and 1"):
        split(whole, 1.5, 0)


def test_labels_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="as many"):
        Labels(["a"], np.zeros(2), np.ones(2), ["golden"])
