"""Encoders that run on this machine: tokens, minibatches bucketed by length, one forward pass each, pooled.

The model is loaded at the first text. Minibatches are cut by tokens, padding included, from the texts sorted by length;
memory is bounded by them, however many texts there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from routing_service.embedding.base import Floats, Progress
from routing_service.embedding.files import ModelFiles
from routing_service.embedding.reading import CHARACTERS, HEAD, Ids, Reader, load_tokenizer
from routing_service.embedding.spec import Spec
from routing_service.errors import ScoringError

CHUNK = 4096  # texts tokenised at a time

Order = npt.NDArray[np.intp]

log = logging.getLogger(__name__)

__all__ = ["Forward", "Loader", "LocalEncoder", "minibatches", "unit"]


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

    @property
    def spec(self) -> str:
        return str(self._spec)

    @cached_property
    def identity(self) -> str:
        depends = {
            "model": self._files.fingerprint,
            "pooling": self._files.pooling,
            "precision": self._spec.precision,
            "tokens": self._spec.tokens,
            "read": [HEAD, CHARACTERS],
        }
        return "local-" + sha256(orjson.dumps(depends, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]

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
        long = 0
        for start in range(0, len(texts), CHUNK):
            ids, cut = self._reader.read(texts[start : start + CHUNK])
            long += cut
            self._encode(ids, vectors[start : start + CHUNK], start, progress)
        if long:
            log.warning("of %d of %d texts head and tail were read: %d tokens", long, len(texts), self._spec.tokens)
        return vectors

    def _encode(self, ids: list[Ids], vectors: Floats, start: int, progress: Progress | None) -> None:
        """Fill in the vectors of a chunk whose first text is number `start`."""
        lengths = np.array([len(one) for one in ids])
        together = list(minibatches(lengths, self._forward.tokens))

        def run(rows: Order) -> Floats:
            return self._forward.run(*_padded(ids, rows, lengths))

        with ThreadPoolExecutor(self._forward.threads) as pool:
            for rows, found in zip(together, pool.map(run, together), strict=True):
                bad = rows[~np.isfinite(found).all(axis=1)]
                if len(bad):
                    raise ScoringError(
                        f"the encoder {self.spec} gives no finite vector for text {start + bad.min() + 1}"
                    )
                vectors[rows] = unit(found)
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


def unit(vectors: Floats) -> Floats:
    """Scaled to length one; zero vectors stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return scaled


def _padded(ids: list[Ids], rows: Order, lengths: npt.NDArray[np.int64]) -> tuple[Ids, Ids]:
    """Ids and mask of those rows; padding is id 0, which the mask hides."""
    padded = np.zeros((len(rows), int(lengths[rows].max())), np.int64)
    mask = np.arange(padded.shape[1]) < lengths[rows][:, None]
    padded[mask] = np.concatenate([ids[row] for row in rows])
    return padded, mask.astype(np.int64)
