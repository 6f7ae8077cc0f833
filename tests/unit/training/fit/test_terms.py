"""The terms that a gain router learns: the most frequent ones, however the prompts are cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest

from routing_service.routers.gain.text_features import tokens
from routing_service.routers.gain.tfidf import Vocabulary
from tests.support.routers.labelled import sums
from training.data.labels import DataError
from training.fit import terms
from training.fit.gain import GainOptions, fit_labels
from training.fit.terms import TermRows, code, fit_vocabulary, frequent_words, joined, recode


def ignore(done: int) -> None:
    pass


def fitted(texts: list[str], *, min_count: int = 1, max_terms: int = 1000, block: int = 1000) -> list[str]:
    words = frequent_words(texts, min_count, max_terms, ignore)
    coder = Vocabulary(list(words))
    parts = [code(coder, tokens(texts[start : start + block])) for start in range(0, len(texts), block)]
    vocabulary, number = fit_vocabulary(parts, words, min_count, max_terms)
    # The prompts' numbers must come to mean the same words in the new vocabulary.
    codes, owner = recode(joined(parts), number)
    known = [(text, word) for text, row in enumerate(tokens(texts)) for word in row if word in vocabulary.words]
    seen = [(int(text), vocabulary.words[n]) for text, n in zip(owner, codes, strict=True) if n >= 0]
    assert seen == known
    return [vocabulary.term(number) for number in range(len(vocabulary))]


TEXTS = ["red fox runs", "red fox sleeps", "blue fox runs fox", "blue sky", ""]


def test_terms_are_counted_in_prompts_not_in_blocks() -> None:
    whole = fitted(TEXTS, min_count=2)
    assert whole == ["blue", "fox", "red", "runs", "fox runs", "red fox"]
    for block in (1, 2, 3):
        assert fitted(TEXTS, min_count=2, block=block) == whole


def test_the_most_frequent_terms_are_kept_and_words_before_pairs() -> None:
    assert fitted(TEXTS, max_terms=1) == ["fox"]
    assert fitted(TEXTS, max_terms=4) == ["blue", "fox", "red", "runs"]
    assert fitted(TEXTS, max_terms=5) == ["blue", "fox", "red", "runs", "fox runs"]
    assert len(fitted(TEXTS)) > 6
    assert fitted(["", "?"]) == []


def test_what_is_counted_is_bounded_and_the_frequent_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"number {n} of the many numbers{n} and so on" for n in range(1100)]
    exact = fitted(texts, min_count=1000)
    monkeypatch.setattr(terms, "MAX_DISTINCT", 100)
    assert fitted(texts, min_count=1000, block=200) == exact
    assert len(fitted(texts)) <= 200


def test_rows_by_blocks_multiply_like_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    words = frequent_words(TEXTS, 1, 1000, ignore)
    vocabulary, _ = fit_vocabulary([code(Vocabulary(list(words)), tokens(TEXTS))], words, 1, 1000)
    monkeypatch.setattr(terms, "BLOCK", 2)
    parts = [vocabulary.rows(tokens(TEXTS[start:stop])) for start, stop in terms.blocks(len(TEXTS))]
    rows, whole = TermRows(parts, len(vocabulary)), vocabulary.rows(tokens(TEXTS))
    matrix = np.zeros((len(TEXTS), len(vocabulary)))
    matrix[whole.row, whole.term] = whole.value
    assert len(parts) == 3
    assert rows.times(np.arange(rows.terms, dtype=float)) == pytest.approx(matrix @ np.arange(rows.terms))
    assert rows.transposed_times(np.arange(5.0)) == pytest.approx(matrix.T @ np.arange(5))
    assert rows.squares() == pytest.approx(np.square(matrix).sum(0))


def test_a_router_does_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, prompts = sums(150), sums(20, seed=9).prompts
    for exact_rows in (0, 5000):
        options = GainOptions(exact_rows=exact_rows, landmarks=40, calibration_share=0)
        with pytest.MonkeyPatch.context() as patch:
            whole = fit_labels(data, seed=0, options=options).gains(prompts)
            patch.setattr(terms, "BLOCK", 32)
            cut = fit_labels(data, seed=0, options=options).gains(prompts)
        for of_whole, of_cut in zip(whole, cut, strict=True):
            assert of_cut == pytest.approx(of_whole, abs=1e-3)


def test_a_router_knows_no_more_terms_than_it_may() -> None:
    router = fit_labels(sums(150), seed=0, options=GainOptions(max_terms=5, calibration_share=0))
    assert len(router.model.vocabulary) == 5
    with pytest.raises(DataError, match="max_terms"):
        GainOptions(max_terms=0)
