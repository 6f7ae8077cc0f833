"""The terms of many prompts in bounded memory: which ones a router knows, and the TF-IDF rows of its labels.

Prompts are read twice: once to count words, once to turn them into numbers, from which pairs of words are counted.
What is counted is bounded, too: beyond MAX_DISTINCT different words or pairs the rarest are forgotten, and start again
from nothing. So a vocabulary is exact up to some hundred thousand prompts, and what is frequent is exact beyond.
scikit-learn's TfidfVectorizer takes as long and twice the memory, which it does not bound.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from routing_service.routers.gain.router import minibatches
from routing_service.routers.gain.text_features import tokens
from routing_service.routers.gain.tfidf import Integers, Rows, Vocabulary, adjacent_pairs

MAX_DISTINCT = 4_000_000
BLOCK = 16_384  # prompts that are worked on at once

Vector = npt.NDArray[np.float64]
# The word numbers of a block's prompts (-1: unknown), and how many words each prompt has
Coded = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

__all__ = ["BLOCK", "Coded", "TermRows", "blocks", "code", "fit_vocabulary", "frequent_words", "joined", "recode"]


@dataclass(frozen=True, slots=True)
class TermRows:
    """The TF-IDF rows of all labels, by blocks of BLOCK labels."""

    parts: list[Rows]
    terms: int

    def times(self, weights: Vector) -> Vector:
        """The product with a vector over terms."""
        return np.concatenate([part.times(weights) for part in self.parts])

    def transposed_times(self, weights: Vector) -> Vector:
        """The product of the transpose with a vector over labels."""
        total = np.zeros(self.terms)
        for (start, stop), part in zip(blocks(len(weights)), self.parts, strict=True):
            total += part.transposed_times(weights[start:stop])
        return total

    def squares(self) -> Vector:
        """The sum over labels of the squared values of each term."""
        total = np.zeros(self.terms)
        for part in self.parts:
            total += replace(part, value=np.square(part.value)).transposed_times(np.ones(part.count))
        return total


def blocks(count: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most BLOCK numbers."""
    return ((start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def frequent_words(prompts: Sequence[str], min_count: int, most: int, advance: Callable[[int], None]) -> dict[str, int]:
    """The `most` most frequent words that stand in at least `min_count` prompts, in order, and in how many they do."""
    frequency: Counter[str] = Counter()
    for start, stop in minibatches(prompts):
        frequency.update(chain.from_iterable(map(set, tokens(prompts[start:stop]))))
        if len(frequency) > MAX_DISTINCT:
            frequency = _without_the_rarest(frequency)
        advance(stop - start)
    counted = [(-count, word) for word, count in frequency.items() if count >= min_count]
    kept = heapq.nsmallest(most, counted) if len(counted) > most else counted
    return dict(sorted((word, -count) for count, word in kept))


def _without_the_rarest(frequency: Counter[str]) -> Counter[str]:
    least = 2
    while len(frequency) > MAX_DISTINCT // 2:
        frequency = Counter({word: count for word, count in frequency.items() if count >= least})
        least += 1
    return frequency


def code(words: Vocabulary, texts: Sequence[list[str]]) -> Coded:
    """Tokenised texts by the numbers of their words."""
    return words.codes(texts)[0].astype(np.int32), np.fromiter(map(len, texts), np.int32, len(texts))


def joined(parts: Sequence[Coded]) -> Coded:
    """Coded texts, one behind the other."""
    return np.concatenate([codes for codes, _ in parts]), np.concatenate([counts for _, counts in parts])


def fit_vocabulary(
    coded: Sequence[Coded], words: dict[str, int], min_count: int, max_terms: int
) -> tuple[Vocabulary, npt.NDArray[np.int32]]:
    """The `max_terms` most frequent of the words and of the pairs of words that stand in at least `min_count` prompts,
    and the new number of each of the words (-1: not kept).
    """
    pairs, pair_frequency = _frequent_pairs(coded, len(words), min_count)
    both = np.concatenate([np.fromiter(words.values(), np.int64, len(words)), pair_frequency])
    kept = np.zeros(len(both), bool)
    kept[np.argsort(-both, kind="stable")[:max_terms]] = True  # of equally frequent ones words come first
    first, second = np.divmod(pairs, max(len(words), 1))
    kept[len(words) :] &= kept[first] & kept[second]
    of_words = kept[: len(words)]
    number = np.where(of_words, np.cumsum(of_words) - 1, -1)
    known = kept[len(words) :]
    pairs = number[first[known]] * int(of_words.sum()) + number[second[known]]
    prompts = sum(len(counts) for _, counts in coded)
    idf = np.log((1 + prompts) / (1 + both[kept])) + 1
    chosen = [word for word, is_kept in zip(words, of_words.tolist(), strict=True) if is_kept]
    # At the precision in which it is saved, so that a loaded vocabulary is the same one.
    return Vocabulary(chosen, pairs, idf.astype(np.float16)), number.astype(np.int32)


def recode(coded: Coded, number: npt.NDArray[np.int32]) -> tuple[Integers, Integers]:
    """A block's words by their new numbers, and the prompt of the block that each stands in."""
    codes, counts = coded
    # The last place is that of -1, an unknown word.
    return np.append(number, np.int32(-1))[codes].astype(np.int64), _owners(counts)


def _owners(counts: npt.NDArray[np.int32]) -> Integers:
    return np.repeat(np.arange(len(counts)), counts)


def _frequent_pairs(coded: Sequence[Coded], words: int, min_count: int) -> tuple[Integers, Integers]:
    """The pairs of adjacent words that stand in at least `min_count` prompts, sorted, and in how many."""
    pairs, frequency = np.empty(0, np.int64), np.empty(0, np.int64)
    for codes, counts in coded:
        pair, owner = adjacent_pairs(codes.astype(np.int64), _owners(counts), words)
        distinct, times = np.unique(np.unique(owner * words**2 + pair) % max(words, 1) ** 2, return_counts=True)
        pairs, frequency = _merged(pairs, frequency, distinct, times)
        least = 2
        while len(pairs) > MAX_DISTINCT:
            pairs, frequency = pairs[frequency >= least], frequency[frequency >= least]
            least += 1
    return pairs[frequency >= min_count], frequency[frequency >= min_count]


def _merged(pairs: Integers, frequency: Integers, more: Integers, times: Integers) -> tuple[Integers, Integers]:
    """Two sorted lists of pairs as one, the counts of a pair in both added up."""
    place = np.searchsorted(pairs, more)
    place[place == len(pairs)] = 0
    known = pairs[place] == more if len(pairs) else np.zeros(len(more), bool)
    frequency[place[known]] += times[known]
    at = np.searchsorted(pairs, more[~known])
    return np.insert(pairs, at, more[~known]), np.insert(frequency, at, times[~known])
