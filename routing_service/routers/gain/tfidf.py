"""Word 1- and 2-gram TF-IDF, kept primal: a prompt is a short sparse row, and a linear score is one weighted count.

tf = 1 + log count, idf = log((1 + n) / (1 + df)) + 1, rows of unit length. A 2-gram is a pair of known words, so that
the vocabulary needs no strings for it. Terms are numbered words first, then pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer]
Vector = npt.NDArray[np.float64]
_LOG_TF = 1 + np.log(np.arange(1, 65))  # of 1, 2, ... 64 occurrences; more count as 64


@dataclass(frozen=True, slots=True)
class Rows:
    """A sparse matrix: value[i] stands at (row[i], term[i]); sorted by row, then term."""

    row: Numbers
    term: Numbers
    value: npt.NDArray[np.floating]
    count: int  # of rows
    terms: int  # of columns

    def times(self, weights: npt.NDArray[np.floating]) -> Vector:
        """The product with a vector over terms."""
        product: Vector = np.bincount(self.row, self.value * weights[self.term], self.count).astype(np.float64)
        return product

    def transposed_times(self, weights: Vector) -> Vector:
        """The product of the transpose with a vector over rows."""
        product: Vector = np.bincount(self.term, self.value * weights[self.row], self.terms).astype(np.float64)
        return product


class Vocabulary:
    """The terms and their idf, else 1. `words` are distinct, `pairs` are sorted (first * words + second)."""

    def __init__(
        self, words: Sequence[str], pairs: Integers | None = None, idf: npt.NDArray[np.floating] | None = None
    ) -> None:
        self.words = list(words)
        self.pairs = np.empty(0, np.int64) if pairs is None else pairs
        self.idf = np.ones(len(self)) if idf is None else idf.astype(np.float64)
        self._number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words) + len(self.pairs)

    def term(self, number: int) -> str:
        """The term as text."""
        if number < len(self.words):
            return self.words[number]
        first, second = divmod(int(self.pairs[number - len(self.words)]), len(self.words))
        return f"{self.words[first]} {self.words[second]}"

    def rows(self, texts: Sequence[list[str]]) -> Rows:
        """The TF-IDF rows of tokenised texts. A text of unknown words is a row of zeros."""
        return self.rows_of(*self.codes(texts), len(texts))

    def codes(self, texts: Sequence[list[str]]) -> tuple[Integers, Integers]:
        """The number of every word of the texts, -1 where it is unknown, and the number of the text it stands in."""
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        number_of = self._number.get
        codes = np.fromiter((number_of(word, -1) for word in chain.from_iterable(texts)), np.int64, counts.sum())
        return codes, np.repeat(np.arange(len(texts)), counts)

    def rows_of(self, codes: Integers, owner: Integers, count: int) -> Rows:
        """The TF-IDF rows of `count` texts from their `codes`."""
        pair, pair_owner = adjacent_pairs(codes, owner, len(self.words))
        places = np.searchsorted(self.pairs, pair)
        places[places == len(self.pairs)] = 0
        in_pairs = self.pairs[places] == pair if len(self.pairs) else np.zeros(len(pair), bool)
        known = codes >= 0
        term = np.concatenate([codes[known], len(self.words) + places[in_pairs]])
        key = np.concatenate([owner[known], pair_owner[in_pairs]]) * max(len(self), 1) + term
        key.sort()
        first = np.flatnonzero(np.diff(key, prepend=-1))
        occurrences = np.diff(first, append=len(key))
        row, term = np.divmod(key[first], max(len(self), 1))
        value = _LOG_TF[np.minimum(occurrences, len(_LOG_TF)) - 1] * self.idf[term]
        length = np.sqrt(np.bincount(row, value * value, count))
        return Rows(row, term, value / length[row], count, len(self))


def adjacent_pairs(codes: Integers, owner: Integers, words: int) -> tuple[Integers, Integers]:
    """The pairs of adjacent known words, as first * words + second, and the text that each stands in."""
    known = codes >= 0
    adjacent = known[:-1] & known[1:] & (owner[:-1] == owner[1:])
    return codes[:-1][adjacent] * words + codes[1:][adjacent], owner[:-1][adjacent]
