"""Text features and TF-IDF rows: sane in any script and at any length, and what they claim to count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.routers.gain.kernel import SEPARATION, Standard, similarities
from routing_service.routers.gain.text_features import FINE_LISTS, NAMES, WORD_LISTS, features, tokens
from routing_service.routers.gain.tfidf import Vocabulary
from training.fit.terms import code, fit_vocabulary, frequent_words

ODD = [
    "",
    " \n",
    "ü",
    "一个正方形的面积是多少？选择一个答案。",
    "ما هو حاصل ضرب ٦ في ٧؟",
    "\ud800 lone",
    "?" * 100_000,
    "9" * 5000,
    "1.2.3 ..., ٣٫٥ 1e999",
    "A. one\nA. two",
    "\nA. ",
    "🙂" * 50,
    "word " * 20_000,
    "\nA) x" * 1000,
]


def of(text: str) -> dict[str, float]:
    return dict(zip(NAMES, features([text], tokens([text]))[0].tolist(), strict=True))


def test_odd_texts_have_finite_features() -> None:
    values = features(ODD, tokens(ODD))
    assert values.shape == (len(ODD), len(NAMES)) == (len(ODD), 89)
    assert np.isfinite(values).all()
    assert features([], []).shape == (0, 89)


@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=6))
def test_a_texts_features_do_not_depend_on_its_company(texts: list[str]) -> None:
    together = features(texts, tokens(texts))
    assert np.isfinite(together).all()
    for row, text in zip(together, texts, strict=True):
        assert row.tolist() == list(of(text).values())


@pytest.mark.parametrize("lists", [WORD_LISTS, FINE_LISTS])
def test_word_lists_share_no_word(lists: dict[str, str]) -> None:
    words = " ".join(lists.values()).split()
    assert len(words) == len(set(words))


@pytest.mark.parametrize("form", ["{}. ", "{}) ", "({}) "])
def test_answer_options_are_read_in_their_usual_forms(form: str) -> None:
    lines = [form.format(letter) + text for letter, text in zip("ABC", ["4", "a fox", "the fox"], strict=True)]
    actual = of("How many?\n" + "\n".join(lines) + "\nAnswer:")
    assert actual["options: count"] == 3
    assert actual["options: numeric share"] == pytest.approx(1 / 3)
    assert np.expm1(actual["options: longest"]) == pytest.approx(7)
    assert actual["ends in a question"] == 1
    assert np.expm1(actual["stem length"]) == pytest.approx(9)


def test_numbers_are_counted_and_ranged() -> None:
    actual = of("In 1999 she paid 1,250.50 for 3 and 3 more, see 1.2.3")
    assert actual["numbers: count"] == 5
    assert np.expm1(actual["numbers: largest"]) == pytest.approx(1999)
    assert np.expm1(actual["numbers: smallest"]) == pytest.approx(3)
    assert actual["numbers: years"] == 1
    assert actual["numbers: at least 100"] == 2
    assert actual["numbers: decimals"] == 2


def test_digits_and_quantities_are_counted() -> None:
    actual = of("She pays 1,250.50 for 300 and 0.05 for two more. Is it half?")
    assert np.expm1(actual["numbers: significant digits"]) == pytest.approx(5 + 1 + 1)
    assert actual["numbers: most significant digits"] == 5
    assert actual["numbers: round"] == pytest.approx(2 / 3)
    assert np.expm1(actual["quantities: count"]) == pytest.approx(3 + 1)
    assert actual["quantities: a sentence"] == pytest.approx(4 / 5)  # every full stop and question mark ends one
    assert actual["quantities: range"] == pytest.approx(np.log(1251.5 / 1.05))
    assert of("none")["quantities: range"] == of("none")["numbers: round"] == 0


def test_a_word_of_two_lists_counts_in_both() -> None:
    actual = of("half as much, and twice as much as that")
    assert np.expm1(actual["word list: rates"]) == pytest.approx(4)  # half, much, twice, much
    assert np.expm1(actual["words: fractions"]) == pytest.approx(1)
    assert np.expm1(actual["words: multiples"]) == pytest.approx(1)
    assert np.expm1(actual["words: as"]) == pytest.approx(3)


def test_characters_and_words_are_counted() -> None:
    actual = of("Is 日本 a Court? A court.")
    assert np.expm1(actual["character '?'"]) == pytest.approx(1)
    assert actual["capitals"] == pytest.approx(3 / 24)
    assert actual["non-ASCII"] == pytest.approx(2 / 24)
    assert np.expm1(actual["word list: law"]) == pytest.approx(2)


def vocabulary_of(texts: list[str], min_count: int = 2, max_terms: int = 1000) -> Vocabulary:
    words = frequent_words(texts, min_count, max_terms, lambda done: None)
    coded = code(Vocabulary(list(words)), tokens(texts))
    return fit_vocabulary([coded], words, min_count, max_terms)[0]


def dense(vocabulary: Vocabulary, texts: list[str]) -> np.ndarray:
    rows = vocabulary.rows(tokens(texts))
    matrix = np.zeros((rows.count, rows.terms))
    matrix[rows.row, rows.term] = rows.value
    return matrix


TEXTS = ["red fox runs", "red fox sleeps", "blue fox runs fox", ""]


def test_terms_are_words_and_pairs_that_stand_in_enough_texts() -> None:
    vocabulary = vocabulary_of(TEXTS)
    terms = [vocabulary.term(number) for number in range(len(vocabulary))]
    assert terms == ["fox", "red", "runs", "fox runs", "red fox"]


def test_rows_are_tf_idf_of_unit_length() -> None:
    vocabulary = vocabulary_of(TEXTS)
    matrix = dense(vocabulary, TEXTS)
    assert np.square(matrix).sum(1) == pytest.approx([1, 1, 1, 0])
    fox, runs, pair = 1 + np.log(2), 1, 1
    idf = np.log(5 / (1 + np.array([3, 2, 2]))) + 1
    row = np.array([fox, runs, pair]) * idf
    assert matrix[2, [0, 2, 3]] == pytest.approx(row / np.linalg.norm(row), rel=1e-3)


def test_rows_multiply_like_the_matrix_they_stand_for() -> None:
    vocabulary = vocabulary_of(TEXTS)
    rows, matrix = vocabulary.rows(tokens(TEXTS)), dense(vocabulary, TEXTS)
    of_terms, of_rows = np.arange(5.0), np.arange(4.0)
    assert rows.times(of_terms) == pytest.approx(matrix @ of_terms)
    assert rows.transposed_times(of_rows) == pytest.approx(matrix.T @ of_rows)


def test_no_texts_and_an_empty_vocabulary_give_empty_rows() -> None:
    empty = vocabulary_of([])
    assert len(empty) == 0
    assert empty.rows(tokens(["red fox"])).times(np.zeros(0)).tolist() == [0]
    assert vocabulary_of(TEXTS).rows([]).times(np.zeros(5)).tolist() == []


def test_formats_are_standardised_apart_where_there_is_enough_of_both() -> None:
    plain = [f"What is {n} times seven, more or less?" for n in range(120)]
    optional = [f"Pick {n}\nA. {n}\nB. none of these\nAnswer:" for n in range(120)]
    values = features(plain + optional, tokens(plain + optional))
    apart = Standard.fit(values).points(values)
    assert np.abs(apart[:120, :-1].mean(0)).max() < 0.01
    assert similarities(apart[:1], apart[120:], 0.76).max() < 0.001
    laplacian = Standard.fit(values, SEPARATION["laplacian"] / 0.5).points(values)
    assert similarities(laplacian[:1], laplacian[120:], 0.5, "laplacian").max() < 0.001
    assert np.diag(similarities(laplacian, laplacian, 0.5, "laplacian")) == pytest.approx(np.ones(240), abs=0.01)
    pooled = Standard.fit(values[:130])
    assert pooled.separation == 0
    assert np.abs(pooled.points(values)).max() <= 4
