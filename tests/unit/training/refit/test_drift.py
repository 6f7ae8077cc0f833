"""How like the compared prompts traffic is, and how far off win rates are beyond chance."""

from __future__ import annotations

import numpy as np
import pytest

from training.refit.drift import excess_error, hashed_similarity


def test_the_same_prompts_are_alike_and_those_without_a_common_word_are_not() -> None:
    known = ["what is a ring", "paint the fence red"]
    assert hashed_similarity(known, [*known, "something else"]) == pytest.approx(1)
    assert hashed_similarity(["où est la gare"], known) == pytest.approx(0)
    assert hashed_similarity(["", "\ud800"], known) == pytest.approx(0)
    half = hashed_similarity([known[0], "où est la gare"], known)
    assert half == pytest.approx(0.5)


def test_rare_words_count_for_more_than_common_ones() -> None:
    known = [f"tell me of the {word}" for word in ("ring", "field", "ideal", "group")]
    rare, common = (hashed_similarity([prompt], known) for prompt in ("ring", "tell me of the"))
    assert hashed_similarity(["the ring"], known) > hashed_similarity(["the of"], known)
    assert 0 < rare < 1
    assert 0 < common < 1


def test_true_win_rates_are_not_further_off_than_chance_and_others_are() -> None:
    draw = np.random.default_rng(0)
    rates = draw.random(400)
    gain = np.where(draw.random(400) < rates, 1.0, -1.0)
    assert abs(excess_error(rates, gain)) < 0.03
    assert excess_error(1 - rates, gain) > 0.2
    assert excess_error(rates, gain) == excess_error(rates, gain)
