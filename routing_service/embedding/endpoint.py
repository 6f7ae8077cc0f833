"""Vectors from an OpenAI-compatible `/embeddings`: of a server of one's own, since nothing here reserves money.

The model's name is taken at its word: a server that changes the weights must change the name, or routers that were
fitted with the old vectors, and the cache, would not know.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import httpx2
import numpy as np
import orjson

from routing_service.embedding.base import Floats, Progress, Spec, digest, finite, unit
from routing_service.embedding.minibatches import HEAD, SURROGATES
from routing_service.errors import ConfigurationError, ScoringError
from routing_service.settings import ModelSettings, Settings
from routing_service.upstream.outcome import Outcome, RetryPolicy, broken, read_answer, unsent

BYTES = 4  # of a text a token, about
TEXTS = 64  # in a call
PROBE = "How many dimensions has this?"

__all__ = ["EndpointEncoder"]


class EndpointEncoder:
    """Calls one after another, each retried by the one retry policy."""

    def __init__(self, spec: Spec, settings: Settings, sleep: Callable[[float], None] = time.sleep) -> None:
        """ConfigurationError without an address or its key, or for an endpoint that is paid by the token."""
        wanted = settings.embedding
        if wanted.base_url is None:
            raise ConfigurationError("embedding.base_url: name the address of the embeddings endpoint")
        if wanted.usd_per_million > 0:
            raise ConfigurationError(
                "embedding.usd_per_million: a paid endpoint is not called, since no budget covers embeddings: "
                "host the model yourself (usd_per_million = 0) or take a local encoder"
            )
        try:
            self._upstream = ModelSettings(
                name=spec.name, base_url=wanted.base_url, api_key_env=wanted.api_key_env, timeout_s=wanted.timeout_s
            )
        except ValueError as error:
            raise ConfigurationError(f"[embedding]: {error}") from None
        self._key = self._upstream.api_key()
        if wanted.api_key_env and self._key is None:
            raise ConfigurationError(f"embedding.api_key_env: the environment variable {wanted.api_key_env} is not set")
        self._spec = spec
        self._url = str(wanted.base_url).rstrip("/") + "/embeddings"
        self._policy = RetryPolicy.of(settings.dispatch)
        self._bytes_in_call = BYTES * wanted.minibatch_tokens
        self._sleep = sleep
        self.shortened = 0

    @property
    def spec(self) -> str:
        return str(self._spec)

    @property
    def identity(self) -> str:
        return digest("endpoint", self._spec.name, self._spec.tokens, HEAD, BYTES)

    @cached_property
    def dimensions(self) -> int:
        return int(self._call([PROBE]).shape[1])

    @cached_property
    def _client(self) -> httpx2.Client:
        key = {"Authorization": f"Bearer {self._key.get_secret_value()}"} if self._key else {}
        return httpx2.Client(timeout=self._upstream.timeout_s, headers=key)

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for rows, some in self._calls(texts):
            if some:
                encoded = self._call(some)
                if encoded.shape[1] != self.dimensions:
                    raise self._failed(f"gave vectors of {encoded.shape[1]} dimensions, then others")
                vectors[rows] = unit(finite(encoded, self.spec, np.array(rows, np.intp)))
            if progress:
                progress(len(rows))
        return vectors

    def _failed(self, reason: str) -> ScoringError:
        """Clients read the message, operators also the note: where an endpoint stands is no client's business."""
        error = ScoringError(f"the embeddings endpoint {reason}")
        error.add_note(f"endpoint: {self._upstream.origin}")
        return error

    def _calls(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
        """Rows and what is sent of them; last the rows without any text, whose vectors stay zero."""
        rows: list[int] = []
        some: list[str] = []
        empty: list[int] = []
        size = 0
        for row, text in enumerate(texts):
            sent, cut = _cut(text, BYTES * self._spec.tokens)
            self.shortened += cut
            if not sent.strip():
                empty.append(row)
                continue
            if some and (len(some) == TEXTS or size + len(sent) > self._bytes_in_call):
                yield rows, some
                rows, some, size = [], [], 0
            rows.append(row)
            some.append(sent)
            size += len(sent)
        if some:
            yield rows, some
        if empty:
            yield empty, []

    def _call(self, texts: list[str]) -> Floats:
        """Their vectors. ScoringError, without any secret, where the endpoint refuses or gives something else."""
        body = orjson.dumps({"model": self._spec.name, "input": texts, "encoding_format": "float"})
        rng = random.Random()  # noqa: S311 (jitter)
        attempt = 1
        while True:
            vectors = self._attempt(body, len(texts))
            if not isinstance(vectors, Outcome):
                return vectors
            if not self._policy.again(vectors, attempt):
                raise self._failed(f"gives no vectors: {vectors.error_code}: {vectors.error_message}")
            self._sleep(self._policy.delay_s(vectors, attempt, rng))
            attempt += 1

    def _attempt(self, body: bytes, count: int) -> Floats | Outcome:
        try:
            answer = self._client.post(self._url, content=body, headers={"Content-Type": "application/json"})
        except httpx2.HTTPError as error:  # its text may hold the address with its password
            return unsent(type(error).__name__)
        if answer.status_code != 200:
            return read_answer(answer.status_code, answer.headers, answer.content, self._upstream)
        vectors = _vectors(answer.content, count)
        return broken("invalid_answer", f"not {count} vectors of one length") if vectors is None else vectors


def _cut(text: str, limit: int) -> tuple[str, bool]:
    """Head and tail of a text of more bytes, and whether it was cut; Unicode in any case."""
    ends = text if len(text) <= 2 * limit else text[:limit] + text[-limit:]  # no more can be among the bytes kept
    content = SURROGATES.sub("\ufffd", ends).encode()
    if len(content) <= limit:
        return content.decode(), False
    head = int(HEAD * limit)
    return f"{content[:head].decode(errors='ignore')} {content[head - limit + 1 :].decode(errors='ignore')}", True


def _vectors(content: bytes, count: int) -> Floats | None:
    """The vectors of an answer in the order of their index; None for anything else."""
    try:
        items: Any = orjson.loads(content)["data"]
        if sorted(item["index"] for item in items) != list(range(count)):
            return None
        ordered = [item["embedding"] for item in sorted(items, key=lambda item: item["index"])]
        with np.errstate(over="ignore"):  # too large for float32 is as bad as infinite
            vectors = np.array([[np.nan if x is None else x for x in one] for one in ordered]).astype(np.float32)
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None
    return vectors if vectors.ndim == 2 and vectors.shape[1] else None
