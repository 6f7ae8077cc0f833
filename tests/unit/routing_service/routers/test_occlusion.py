"""Explanation by leaving parts of a prompt out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.routers.occlusion import EXCERPT, SEGMENTS, explain_by_occlusion, segments_of
from tests.support.routers.labelled import ODD


class Sevens:
    """The win rate falls by a tenth for every 7 in the prompt and rises by a fifth where it says integral."""

    name = "sevens"

    def __init__(self) -> None:
        self.calls = 0

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> npt.NDArray[np.float32]:
        self.calls += 1
        return np.array([0.5 - 0.1 * text.count("7") + 0.2 * ("integral" in text) for text in prompts], np.float32)


def test_segments_are_ordered_by_what_they_change_and_carry_its_sign() -> None:
    router = Sevens()
    why = explain_by_occlusion(router, "Take the number 7. Now find the integral of it. Thank you very much indeed.")
    assert (why["router"], router.calls) == ("sevens", 1)
    assert why["win_rate"] == pytest.approx(0.6)
    first, second, *others = why["segments"]
    assert "integral" in first["text"]
    assert first["contribution"] == pytest.approx(0.2)
    assert "7" in second["text"]
    assert second["contribution"] == pytest.approx(-0.1)
    assert [segment["contribution"] for segment in others] == pytest.approx([0] * len(others))


def test_a_long_text_is_cut_where_sentences_and_lines_end() -> None:
    text = "".join(f"Sentence {n} has 3.5 words.{' ' if n % 2 else chr(10)}" for n in range(64))
    segments = segments_of(text)
    assert len(segments) == SEGMENTS
    assert all(segment.startswith("Sentence") and segment.rstrip().endswith("words.") for segment in segments)


def test_a_sentence_alone_is_cut_between_words() -> None:
    assert segments_of("What is two plus two?") == ["What ", "is ", "two ", "plus ", "two?"]
    assert all(segment.endswith("word ") for segment in segments_of("word " * 500))


@pytest.mark.parametrize("text", ["一个正方形的面积是多少请选择一个答案" * 3, "9" * 5000, "ราคาของแอปเปิลสามลูกคือเท่าไร"])
def test_a_text_without_spaces_is_cut_too(text: str) -> None:
    segments = segments_of(text)
    assert len(segments) > 8
    assert max(map(len, segments)) <= 2 * len(text) / len(segments) + 32


@given(st.text(st.characters(exclude_categories=[]), max_size=300), st.integers(1, 20))
def test_nothing_is_lost_and_segments_are_few(text: str, most: int) -> None:
    segments = segments_of(text, most)
    assert len(segments) <= most
    assert "".join(segments) == (text if text.strip() else "")


@pytest.mark.parametrize("empty", ["", " \n\t"])
def test_an_empty_prompt_has_a_win_rate_and_no_segments(empty: str) -> None:
    assert explain_by_occlusion(Sevens(), empty) == {"router": "sevens", "win_rate": 0.5, "segments": []}


@pytest.mark.parametrize("prompt", ODD)
def test_any_prompt_is_explained_in_short_and_as_json(prompt: str) -> None:
    why = explain_by_occlusion(Sevens(), prompt)
    json.dumps(why).encode()
    assert all(len(segment["text"]) <= EXCERPT for segment in why["segments"])
    assert all(segment["text"].encode() is not None for segment in why["segments"])
