"""The upstream client against answers that no upstream should send: every call has an outcome that can be stored."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from routing_service.models import AttemptState, EntryBasis
from routing_service.upstream.client import AnswerMemory, Upstreams
from routing_service.upstream.outcome import Outcome
from tests.support.factories import WEAK, make_settings
from tests.support.upstreams.raw import http, raw_upstream

ANSWER = b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
LARGEST = 1_000_000


def _call(answer: bytes) -> Outcome:
    async def run(url: str) -> Outcome:
        upstreams = Upstreams(make_settings(models={"weak": WEAK | {"base_url": url}}).models, LARGEST)
        try:
            return await upstreams.chat("weak", b"{}", AnswerMemory(10 * LARGEST), "call-1")
        finally:
            await upstreams.close()

    with raw_upstream(answer) as url:
        return asyncio.run(run(url))


def test_a_plain_answer_is_read() -> None:
    assert _call(http(ANSWER)).answered


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "connection_error"),
        (b"\x00\xff\xfe garbage\r\n\r\n", "connection_error"),
        (http(ANSWER)[:-10], "connection_error"),
        (http(b"<html>fine</html>"), "invalid_answer"),
        (http(b"[1, 2]"), "invalid_answer"),
        (http(b'{"choices": ' + b"[" * 400 + b"]" * 400 + b"}"), "invalid_answer"),
        (http(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"), "invalid_answer"),
        (http(b'{"choices": [{"message": {"content": "\\ud800"}}]}'), "invalid_answer"),
        (http(b"x" * (LARGEST + 1)), "connection_error"),
        (http(gzip.compress(b"0" * 100 * LARGEST), b"Content-Encoding: gzip"), "connection_error"),
        (http(b"no gzip", b"Content-Encoding: gzip"), "connection_error"),
    ],
)
def test_an_unusable_answer_may_have_been_billed(answer: bytes, code: str) -> None:
    outcome = _call(answer)
    assert (outcome.state, outcome.basis, outcome.error_code) == (AttemptState.UNKNOWN, EntryBasis.UNKNOWN, code)


def test_a_users_netrc_is_no_upstreams_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hidden\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("UPSTREAM_KEY", "key")
    monkeypatch.setitem(WEAK, "api_key_env", "UPSTREAM_KEY")
    assert _call(http(ANSWER)).answered


def test_a_redirect_is_not_followed() -> None:
    outcome = _call(http(b"", b"Location: http://127.0.0.1:1/", status=b"307 Temporary Redirect"))
    assert (outcome.basis, outcome.status_code) == (EntryBasis.UNKNOWN, 307)


def test_headers_that_the_database_could_not_store_are_cleaned() -> None:
    outcome = _call(
        http(ANSWER, b"X-Request-Id: a\xff\xfeb", b"Retry-After: Mon, 01 Jan 2024 00:00:00 +999999999999999")
    )
    assert outcome.answered
    assert outcome.request_id == "ab"
