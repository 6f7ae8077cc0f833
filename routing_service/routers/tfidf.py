"""Word 1- and 2-gram TF-IDF, kept primal: a prompt is a short sparse row, and a linear score is one weighted count.

tf = 1 + log count, idf = log((1 + n) / (1 + df)) + 1, rows of unit length. A 2-gram is a pair of known words, so that
the vocabulary needs no strings for it. Terms are numbered words first, then pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]
_LOG_TF = 1 + np.log(np.arange(1, 65))  # of 1, 2, ... 64 occurrences; more count as 64


@dataclass(frozen=True, slots=True)
class Rows:
    """A sparse matrix: value[i] stands at (row[i], term[i]); sorted by row, then term."""

    row: Integers
    term: Integers
    value: Vector
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
    """The terms and their idf. `words` are distinct, `pairs` are sorted (first * words + second)."""

    def __init__(self, words: Sequence[str], pairs: Integers, idf: npt.NDArray[np.floating]) -> None:
        self.words = list(words)
        self.pairs = pairs
        self.idf = idf.astype(np.float64)
        self._number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words) + len(self.pairs)

    @classmethod
    def fit(cls, texts: Sequence[list[str]], min_count: int = 2) -> Vocabulary:
        """The words and pairs of words that stand in at least `min_count` of the tokenised texts."""
        frequency = Counter(chain.from_iterable(map(set, texts)))
        words = sorted(word for word, count in frequency.items() if count >= min_count)
        vocabulary = cls(words, np.empty(0, np.int64), np.ones(len(words)))
        _, _, pair, owner = vocabulary._codes(texts)
        pairs, number = np.unique(pair, return_inverse=True)
        cells = np.unique(owner * max(len(pairs), 1) + number)
        pair_frequency = np.bincount(cells % max(len(pairs), 1), minlength=len(pairs))
        common = pair_frequency >= min_count
        document_frequency = np.concatenate([[frequency[word] for word in words], pair_frequency[common]])
        idf = np.log((1 + len(texts)) / (1 + document_frequency)) + 1
        # At the precision in which it is saved, so that a loaded vocabulary is the same one.
        return cls(words, pairs[common], idf.astype(np.float16))

    def term(self, number: int) -> str:
        """The term as text."""
        if number < len(self.words):
            return self.words[number]
        first, second = divmod(int(self.pairs[number - len(self.words)]), len(self.words))
        return f"{self.words[first]} {self.words[second]}"

    def rows(self, texts: Sequence[list[str]]) -> Rows:
        """The TF-IDF rows of tokenised texts. A text of unknown words is a row of zeros."""
        word, owner, pair, pair_owner = self._codes(texts)
        found = np.searchsorted(self.pairs, pair)
        found[found == len(self.pairs)] = 0
        known = self.pairs[found] == pair if len(self.pairs) else np.zeros(len(pair), bool)
        term = np.concatenate([word, len(self.words) + found[known]])
        key = np.concatenate([owner, pair_owner[known]]) * max(len(self), 1) + term
        key.sort()
        first = np.flatnonzero(np.diff(key, prepend=-1))
        count = np.diff(first, append=len(key))
        row, term = np.divmod(key[first], max(len(self), 1))
        value = _LOG_TF[np.minimum(count, len(_LOG_TF)) - 1] * self.idf[term]
        length = np.sqrt(np.bincount(row, value * value, len(texts)))
        return Rows(row, term, value / length[row], len(texts), len(self))

    def _codes(self, texts: Sequence[list[str]]) -> tuple[Integers, Integers, Integers, Integers]:
        """The known words with their texts' numbers, and the pairs of adjacent known words with theirs."""
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        number_of = self._number.get
        codes = np.fromiter((number_of(word, -1) for word in chain.from_iterable(texts)), np.int64, counts.sum())
        owner = np.repeat(np.arange(len(texts)), counts)
        known = codes >= 0
        adjacent = known[:-1] & known[1:] & (owner[:-1] == owner[1:])
        pair = codes[:-1][adjacent] * len(self.words) + codes[1:][adjacent]
        return codes[known], owner[known], pair, owner[:-1][adjacent]
