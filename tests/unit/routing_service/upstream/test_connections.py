"""The ways to an upstream: chunks, compression, TLS, proxies. What never reached it costs nothing."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from socket import SHUT_RDWR, create_connection, create_server, socket
from urllib.parse import urlsplit

import pytest

from routing_service.errors import ConfigurationError
from routing_service.models import EntryBasis
from routing_service.settings import ModelSettings
from routing_service.upstream.client import AnswerMemory, Upstreams, proxy_of
from routing_service.upstream.outcome import Outcome
from tests.support.factories import WEAK, make_settings
from tests.support.paths import ROOT, SUPPORT
from tests.support.upstreams.raw import http, raw_upstream

ANSWER = b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
CERTIFICATE = SUPPORT / "loopback.pem"  # self-signed, with its key
CHUNKED = b"Transfer-Encoding: chunked"


def model_at(url: str) -> dict[str, ModelSettings]:
    return make_settings(models={"weak": WEAK | {"base_url": url}}).models


def call(url: str) -> Outcome:
    async def run() -> Outcome:
        upstreams = Upstreams(model_at(url), 1_000_000)
        try:
            return await upstreams.chat("weak", b"{}", AnswerMemory(10_000_000), "call-1")
        finally:
            await upstreams.close()

    return asyncio.run(run())


def head(*headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Connection: close", *headers]) + b"\r\n\r\n"


def chunks(body: bytes, size: int = 7) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.mark.parametrize(
    "answer",
    [
        head(CHUNKED) + chunks(ANSWER),
        http(gzip.compress(ANSWER), b"Content-Encoding: gzip"),
        http(zlib.compress(ANSWER), b"Content-Encoding: deflate"),
        head(CHUNKED, b"Content-Encoding: gzip") + chunks(gzip.compress(ANSWER)),
        head() + ANSWER,  # it ends where the connection does
    ],
    ids=["chunked", "gzip", "deflate", "chunked gzip", "until the end"],
)
def test_an_answer_is_read_however_it_is_sent(answer: bytes) -> None:
    with raw_upstream(answer) as url:
        outcome = call(url)
    assert outcome.answered
    assert outcome.usage is not None
    assert outcome.usage.output == 2


def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


@contextmanager
def tunnel(reply: bytes) -> Iterator[str]:
    """The address of a proxy that gives one CONNECT this reply and then carries bytes to the port that it names."""
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as client:
                asked = client.recv(65536)
                client.sendall(b"HTTP/1.1 " + reply + b"\r\n\r\n")
                if not reply.startswith(b"200"):
                    return
                port = int(asked.split()[1].rpartition(b":")[2])
                with create_connection(("127.0.0.1", port)) as upstream:
                    back = threading.Thread(target=carry, args=(upstream, client))
                    back.start()
                    carry(client, upstream)
                    back.join(10)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


def carry(source: socket, target: socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(SHUT_RDWR)
    except OSError:
        pass  # one of the two has gone


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent() -> None:
    with raw_upstream(http(ANSWER), tls=tls()) as url:
        outcome = call(url)
    assert outcome.basis is EntryBasis.UNBILLED
    assert "certificate" in str(outcome.error_message).lower()


ASKING = """
import asyncio, sys
from routing_service.settings import ModelSettings
from routing_service.upstream.client import AnswerMemory, Upstreams

async def run():
    upstreams = Upstreams({url: ModelSettings(name="m", base_url=url) for url in sys.argv[1:]}, 1_000_000)
    for url in sys.argv[1:]:
        print((await upstreams.chat(url, b"{}", AnswerMemory(10_000_000), "call-1")).answered)
    await upstreams.close()

asyncio.run(run())
"""


def test_tls_trusts_the_file_that_the_environment_names_directly_and_through_a_proxy() -> None:
    """In a process of its own: whom to trust is read once."""
    with raw_upstream(http(ANSWER), tls=tls()) as url, tunnel(b"200 Connection established") as proxy:
        behind = f"https://upstream.invalid:{urlsplit(url).port}/v1"  # a name that only the proxy resolves
        env = os.environ | {"SSL_CERT_FILE": str(CERTIFICATE), "https_proxy": proxy, "no_proxy": ""}
        done = subprocess.run(
            [sys.executable, "-c", ASKING, url, behind], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["True", "True"]


def test_a_proxy_that_does_not_connect_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tunnel(b"407 Proxy Authentication Required") as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        outcome = call("https://upstream.invalid/v1")
    assert (outcome.basis, outcome.retry) == (EntryBasis.UNBILLED, True)
    assert "407" in str(outcome.error_message)


def test_a_plain_call_goes_by_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_upstream(http(ANSWER)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        assert call("http://upstream.invalid/v1").answered


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({"https_proxy": "http://p:1"}, "https://a.example/v1", "http://p:1"),
        ({"https_proxy": "p:1"}, "https://a.example/v1", "http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://a.example/v1", None),
        ({"all_proxy": "http://p:1"}, "http://a.example/v1", "http://p:1"),
        ({"all_proxy": "http://p:1", "http_proxy": "http://q:1"}, "http://a.example/v1", "http://q:1"),
        ({"all_proxy": "http://p:1", "no_proxy": ".example"}, "http://a.example/v1", None),
        ({"all_proxy": "http://p:1"}, "http://localhost:8000/v1", None),
        ({"all_proxy": "http://p:1"}, "http://[::1]:8000/v1", None),
        ({"all_proxy": "http://p:1"}, "http://127.0.0.1/v1", None),
    ],
)
def test_the_environments_proxy_is_taken_unless_it_is_told_not_to(
    environment: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv(name, environment.get(name, ""))
    assert proxy_of(model_at(url)["weak"]) == proxy


def test_a_proxy_that_does_not_speak_http_is_named_before_any_money_is_reserved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ConfigurationError, match="socks5"):
        proxy_of(model_at("https://a.example/v1")["weak"])
