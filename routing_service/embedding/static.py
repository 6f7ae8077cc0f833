"""Static vectors: the mean of a text's token vectors, which thousands of prompts a second allow.

The tokens' vectors are the rows of a sentence encoder's own embedding matrix, less the mean row. Weighting rare tokens
up, dropping principal components, or the encoder's output for every token alone route no better
(docs/measurements/log.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from routing_service.embedding.base import Floats, Progress, Spec, digest, finite, unit
from routing_service.embedding.minibatches import CHARACTERS, HEAD, Reader, load_tokenizer
from routing_service.embedding.model_files import WORDS, ModelFiles, weights_of
from routing_service.errors import ConfigurationError

CHUNK = 1024  # texts at a time

log = logging.getLogger(__name__)

__all__ = ["StaticEncoder"]


class StaticEncoder:
    def __init__(self, spec: Spec, files: ModelFiles) -> None:
        self._spec = spec
        self._files = files

    @property
    def spec(self) -> str:
        return str(self._spec)

    @cached_property
    def identity(self) -> str:
        return digest("static", self._files.fingerprint, self._spec.tokens, HEAD, CHARACTERS)

    @property
    def dimensions(self) -> int:
        return self._files.dimensions

    @cached_property
    def _reader(self) -> Reader:
        return Reader(load_tokenizer(self._files.directory), self._spec.tokens, special=False)

    @cached_property
    def _rows(self) -> Floats:
        try:
            rows = weights_of(self._files.directory)(WORDS)
        except KeyError:
            raise ConfigurationError(f"static needs the weights {WORDS}, which {self._files.directory} lacks") from None
        centred: Floats = rows - rows.mean(0)
        return centred

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        shortened = 0
        for start in range(0, len(texts), CHUNK):
            ids, some = self._reader.read(texts[start : start + CHUNK])
            shortened += some
            sums = vectors[start : start + CHUNK]
            for row, one in enumerate(ids):
                sums[row] = self._rows[one].sum(0)  # all texts at once by np.add.reduceat takes three times as long
            sums[:] = unit(finite(sums, self.spec, np.arange(start, start + len(ids))))
            if progress:
                progress(len(ids))
        if shortened:
            log.warning("%s read head and tail of %d texts that were too long", self.spec, shortened)
        return vectors
