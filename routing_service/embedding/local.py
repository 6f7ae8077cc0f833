"""Encoders that run on this machine: tokens, minibatches bucketed by length, one forward pass each, pooled.

The model is loaded at the first text. Minibatches are cut by tokens, padding included, from the texts sorted by length;
memory is bounded by them, however many texts there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from routing_service.embedding.base import Floats, Progress, Spec, digest, finite, unit
from routing_service.embedding.minibatches import CHARACTERS, HEAD, Ids, Reader, load_tokenizer
from routing_service.embedding.model_files import ModelFiles

CHUNK = 4096  # texts tokenised at a time

Order = npt.NDArray[np.intp]

__all__ = ["Forward", "Loader", "LocalEncoder", "minibatches"]


class Forward(NamedTuple):
    """One pass of a model, and how it is best called."""

    run: Callable[[Ids, Ids], Floats]  # ids and mask, shape (texts, tokens), to pooled vectors (texts, dimensions)
    threads: int  # that may be in it at a time
    tokens: int  # of a minibatch at most


Loader = Callable[[ModelFiles], Forward]


class LocalEncoder:
    """A sentence encoder from its files."""

    def __init__(self, spec: Spec, files: ModelFiles, load: Loader) -> None:
        self._spec = spec
        self._files = files
        self._load = load
        self.shortened = 0

    @property
    def spec(self) -> str:
        return str(self._spec)

    @cached_property
    def identity(self) -> str:
        read = (self._spec.tokens, HEAD, CHARACTERS)
        return digest("local", self._files.fingerprint, self._files.pooling, self._spec.precision, *read)

    @property
    def dimensions(self) -> int:
        return self._files.dimensions

    @cached_property
    def _reader(self) -> Reader:
        return Reader(load_tokenizer(self._files.directory), self._spec.tokens)

    @cached_property
    def _forward(self) -> Forward:
        return self._load(self._files)

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for start in range(0, len(texts), CHUNK):
            ids, shortened = self._reader.read(texts[start : start + CHUNK])
            self.shortened += shortened
            self._encode(ids, vectors[start : start + CHUNK], start, progress)
        return vectors

    def _encode(self, ids: list[Ids], vectors: Floats, start: int, progress: Progress | None) -> None:
        """Fill in the vectors of a chunk whose first text is number `start`."""
        lengths = np.array([len(one) for one in ids])
        together = list(minibatches(lengths, self._forward.tokens))

        def run(rows: Order) -> Floats:
            return self._forward.run(*_padded(ids, rows, lengths))

        with ThreadPoolExecutor(self._forward.threads) as pool:
            for rows, vectors_of_rows in zip(together, pool.map(run, together), strict=True):
                vectors[rows] = unit(finite(vectors_of_rows, self.spec, rows + start))
                if progress:
                    progress(len(rows))
        if progress and (empty := int((lengths == 0).sum())):
            progress(empty)


def minibatches(lengths: npt.NDArray[np.int64], tokens: int) -> Iterator[Order]:
    """Rows that are encoded together, longest first: at most so many tokens with padding, or one row; none empty."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        count = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def _padded(ids: list[Ids], rows: Order, lengths: npt.NDArray[np.int64]) -> tuple[Ids, Ids]:
    """Ids and mask of those rows; padding is id 0, which the mask hides."""
    padded = np.zeros((len(rows), int(lengths[rows].max())), np.int64)
    mask = np.arange(padded.shape[1]) < lengths[rows][:, None]
    padded[mask] = np.concatenate([ids[row] for row in rows])
    return padded, mask.astype(np.int64)
