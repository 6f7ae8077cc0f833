"""An upstream's embeddings: what is sent, what is believed, and what no error shows."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.embedding.base import NotFiniteError, parse
from routing_service.embedding.endpoint import EndpointEncoder
from routing_service.embedding.registry import make_encoder
from routing_service.errors import ConfigurationError, ScoringError
from routing_service.settings import DispatchSettings, EmbeddingSettings, Settings

Answer = tuple[int, dict[str, str], Any]


class Endpoint:
    """An embeddings server on the loopback. `answers` come first; after them it embeds by the lengths of texts."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[Answer] = []
        self.change: Callable[[list[dict[str, Any]]], Any] = lambda items: items
        handler = type("Handler", (_Handler,), {"endpoint": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> Answer:
        self.bodies.append(body)
        if self.answers:
            return self.answers.pop(0)
        items = [{"index": n, "embedding": [len(text), 1.0, 0.0]} for n, text in enumerate(body["input"])]
        return 200, {}, {"data": self.change(items[::-1])}

    @property
    def texts(self) -> list[str]:
        return [text for body in self.bodies[1:] for text in body["input"]]  # the first asks for the dimensions


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def do_POST(self) -> None:
        assert self.path == "/v1/embeddings"
        self.endpoint.keys.append(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers, content = self.endpoint.answer(body)
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def encoder(url: str | None, waits: list[float] | None = None, **embedding: Any) -> EndpointEncoder:
    settings = Settings(
        embedding=EmbeddingSettings(**{"base_url": url, "max_tokens": 16, **embedding}),
        dispatch=DispatchSettings(max_attempts=3),
    )
    sleep = (lambda s: None) if waits is None else waits.append
    return EndpointEncoder(parse("endpoint:e5", settings), settings, sleep)


def test_vectors_come_in_the_order_of_the_texts_with_length_one(endpoint: Endpoint) -> None:
    some = ["x" * n for n in range(1, 60)]
    vectors = encoder(endpoint.url).encode(some)
    assert vectors[:, 0] / vectors[:, 1] == pytest.approx(np.arange(1, 60), rel=1e-5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(59))
    assert endpoint.bodies[1]["model"] == "e5"


def test_a_call_holds_no_more_than_a_minibatch(endpoint: Endpoint) -> None:
    encoder(endpoint.url, minibatch_tokens=64).encode(["x" * 60] * 10 + [str(n) for n in range(150)])
    assert sum(len(body["input"]) for body in endpoint.bodies[1:]) == 160
    for body in endpoint.bodies[1:]:
        assert len(body["input"]) <= 64
        assert sum(map(len, body["input"])) <= 256


def test_empty_texts_are_not_sent_and_are_zero(endpoint: Endpoint) -> None:
    vectors = encoder(endpoint.url).encode(["", "a", "  "])
    assert endpoint.texts == ["a"]
    assert not vectors[[0, 2]].any()


@pytest.mark.parametrize("text", ["begin " + "x" * 100_000 + " end", "begin " + "🧪" * 9999 + " end"])
def test_of_long_texts_head_and_tail_are_sent(endpoint: Endpoint, text: str) -> None:
    made = encoder(endpoint.url)
    made.encode([text])
    (sent,) = endpoint.texts
    assert sent.startswith("begin ")
    assert sent.endswith(" end")
    assert len(sent.encode()) <= 64
    assert made.shortened == 1


def test_lone_surrogates_are_replaced(endpoint: Endpoint) -> None:
    encoder(endpoint.url).encode(["a\ud800b"])
    assert endpoint.texts == ["a\ufffdb"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_no_sooner_than_asked(endpoint: Endpoint, status: int) -> None:
    waits: list[float] = []
    endpoint.answers = [(status, {"Retry-After": "7"}, {"error": {"message": "busy"}})]
    assert encoder(endpoint.url, waits).encode(["a"]).any()
    assert len(waits) == 1
    assert waits[0] >= 7


def test_tries_end_with_what_the_upstream_says(endpoint: Endpoint) -> None:
    waits: list[float] = []
    endpoint.answers = [(500, {}, {"error": {"message": "out of order", "code": "broken"}})] * 3
    with pytest.raises(ScoringError, match="out of order"):
        encoder(endpoint.url, waits).encode(["a"])
    assert (len(endpoint.bodies), len(waits)) == (3, 2)


def test_a_refusal_is_not_tried_again(endpoint: Endpoint) -> None:
    endpoint.answers = [(404, {}, {"error": {"message": "no such model"}})]
    with pytest.raises(ScoringError, match="no such model") as caught:
        encoder(endpoint.url).encode(["a"])
    assert len(endpoint.bodies) == 1
    assert "127.0.0.1" not in str(caught.value)  # clients read it
    assert "127.0.0.1" in caught.value.__notes__[0]  # the log has it


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items[1:],
        lambda items: [*items, items[0]],
        lambda items: [item | {"index": 0} for item in items],
        lambda items: [item | {"embedding": []} for item in items],
        lambda items: [item | {"embedding": "AAAA"} for item in items],
        lambda items: [{"index": n, "embedding": [1.0] * (n + 1)} for n in range(len(items))],
        lambda items: {"a": 1},
        lambda items: None,
    ],
)
def test_an_answer_that_is_not_the_vectors_is_refused(endpoint: Endpoint, change: Callable[[Any], Any]) -> None:
    made = encoder(endpoint.url)
    assert made.dimensions == 3
    endpoint.change = change
    with pytest.raises(ScoringError, match="not 2 vectors"):
        made.encode(["a", "b"])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_an_answer_that_is_no_json_is_refused(endpoint: Endpoint, content: bytes) -> None:
    endpoint.answers = [(200, {}, content)] * 3
    with pytest.raises(ScoringError, match="not 1 vectors"):
        encoder(endpoint.url).encode(["a"])


def test_dimensions_that_change_are_refused(endpoint: Endpoint) -> None:
    made = encoder(endpoint.url)
    assert made.dimensions == 3
    endpoint.change = lambda items: [item | {"embedding": [1.0, 2.0]} for item in items]
    with pytest.raises(ScoringError, match="dimensions"):
        made.encode(["a"])


@pytest.mark.parametrize("value", [None, 1e39])
def test_a_number_that_is_none_is_named_by_its_text(endpoint: Endpoint, value: float | None) -> None:
    made = encoder(endpoint.url)
    assert made.dimensions == 3
    endpoint.change = lambda items: [items[0] | {"embedding": [value, 1.0, 1.0]}, *items[1:]]  # the last text's
    with pytest.raises(NotFiniteError, match="text 4"):
        made.encode(["", "a", "b", "c"])


def test_the_key_is_sent_and_never_shown(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_KEY", "hush-hush-123")
    endpoint.answers = [(401, {}, {"error": {"message": "bad key hush-hush-123"}})]
    made = encoder(endpoint.url, api_key_env="EMBEDDING_KEY")
    with pytest.raises(ScoringError) as caught:
        made.encode(["a"])
    assert endpoint.keys == ["Bearer hush-hush-123"]
    assert "hush" not in f"{caught.value!r} {made!r} {vars(made)!r}"


def test_an_endpoint_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(ScoringError, match=r"127\.0\.0\.1:9/v1") as caught:
        encoder("http://me:hush@127.0.0.1:9/v1").encode(["a"])
    assert "hush" not in str(caught.value)


def test_a_paid_endpoint_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="usd_per_million"):
        encoder(endpoint.url, usd_per_million=0.02)


def test_an_endpoint_without_an_address_or_its_key_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        encoder(None)
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY"):
        encoder(endpoint.url, api_key_env="NO_SUCH_KEY")


def test_its_vectors_are_cached(endpoint: Endpoint, tmp_path: Path) -> None:
    settings = Settings(embedding=EmbeddingSettings(base_url=endpoint.url, encoder="endpoint:e5", cache=tmp_path))
    made = make_encoder(settings)
    vectors = made.encode(["a", "bb"])
    assert (made.encode(["bb", "a"]) == vectors[::-1]).all()
    assert endpoint.texts == ["a", "bb"]
