"""What is read of texts, and how they are put together: any text, any lengths, any memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routing_service.embedding.local import minibatches
from routing_service.embedding.minibatches import Reader, clean, head_and_tail
from routing_service.embedding.torch_forward import halving
from routing_service.errors import ScoringError
from tests.unit.tiny_encoder import SPECIAL, WORDS, tokenizer

MINIBATCH_TOKENS = 12
READER = Reader(tokenizer(), MINIBATCH_TOKENS)
anything = st.text(st.characters(exclude_categories=()), max_size=200)  # surrogates, too


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 500))
def test_every_text_with_tokens_is_in_one_minibatch_of_bounded_size(lengths: list[int], tokens: int) -> None:
    found = list(minibatches(np.array(lengths, np.int64), tokens))
    assert sorted(row for rows in found for row in rows) == [row for row, length in enumerate(lengths) if length]
    for rows in found:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= tokens


def test_texts_of_like_length_are_together() -> None:
    lengths = np.array([100, 3, 99, 4, 98, 5] * 10)
    for rows in minibatches(lengths, 300):
        assert np.ptp(lengths[rows]) <= 2


@given(anything, st.integers(8, 40))
def test_head_and_tail_of_any_text_fit(text: str, characters: int) -> None:
    found = head_and_tail(text, characters)
    assert len(found) <= characters
    assert found == text or (text.startswith(found[: characters // 2]) and text.endswith(found[-characters // 8 :]))
    clean(text, characters).encode()  # which lone surrogates would not allow


@given(st.lists(anything, max_size=8))
def test_any_text_gives_few_tokens_between_the_special_ones(texts: list[str]) -> None:
    found, _ = READER.read(texts)
    assert len(found) == len(texts)
    for ids in found:
        assert len(ids) <= MINIBATCH_TOKENS
        assert len(ids) == 0 or (ids[0], ids[-1]) == (SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]"))


def test_a_long_text_keeps_three_quarters_head_and_a_quarter_tail() -> None:
    (found,), long = READER.read([" ".join(WORDS[:30])])
    words = [number - len(SPECIAL) for number in found[1:-1]]
    assert words == [*range(7), 27, 28, 29]
    assert long == 1


def test_what_memory_does_not_hold_is_done_in_halves() -> None:
    sizes: list[int] = []

    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError
        return ids.sum(1, keepdim=True)

    ids = torch.arange(20).reshape(10, 2)
    assert halving(run, ids, torch.ones_like(ids)).equal(ids.sum(1, keepdim=True))
    assert max(sizes[1:]) <= 5


def test_a_text_that_memory_does_not_hold_alone_is_an_error() -> None:
    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(ScoringError, match="does not hold a text of 2 tokens"):
        halving(run, torch.ones(4, 2), torch.ones(4, 2))
