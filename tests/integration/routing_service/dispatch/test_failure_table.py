"""What must follow from what happens to calls, each row of the table with a real pump.

| what happens | shown by |
| --- | --- |
| 429, 5xx, timeout, reset, truncated or malformed JSON, empty choices | test_what_fails_for_a_while_... |
| 400, 404, 413, content filter | test_what_is_refused_... |
| 401, 403 | test_circuit_breaker |
| an upstream that hangs | test_an_upstream_that_hangs_..., test_connecting_..., test_an_answer_that_... |
| SIGTERM, SIGKILL, Redis gone or emptied, Postgres restarted, a wrong clock | test_failure_table_of_hosts |
| a poison request | test_quarantine, tests/e2e/test_poison |
| fallback | test_fallback |
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.openai_format.output import render
from tests.support.pumping import assert_sound, budget_of, error_codes, plan_lines, pump_settings, run_pump, states_of
from tests.support.reading import batch_of
from tests.support.upstreams.raw import http, raw_upstream

ANSWER = b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
GOOD = http(ANSWER)
FAILS = {
    "429": (http(b'{"error": {"code": "slow_down"}}', status=b"429 Too Many Requests"), "slow_down"),
    "500": (http(b'{"error": {"code": "oops"}}', status=b"500 Internal Server Error"), "oops"),
    "503": (http(b"busy", status=b"503 Service Unavailable"), "http_503"),
    "timeout": (None, "timeout"),
    "reset": (b"", "connection_error"),
    "truncated": (GOOD[:-10], "connection_error"),
    "malformed": (http(b'{"choices": ['), "invalid_answer"),
    "empty choices": (http(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}'), "empty_answer"),
}


def errors_of(database: Database, batch_id: str) -> list[Any]:
    return [orjson.loads(line) for piece in render(database, batch_id, errors=True) for line in piece.splitlines()]


@pytest.mark.parametrize("fault", FAILS)
def test_what_fails_for_a_while_is_retried_until_it_is_answered(database: Database, fault: str) -> None:
    batch_id = plan_lines(database)
    answer, code = FAILS[fault]
    with raw_upstream(answer, answer, GOOD) as url:
        run_pump(database, pump_settings(url, {"timeout_s": 0.3}, max_attempts=4))
    assert states_of(database, batch_id) == {"succeeded": 1}
    assert error_codes(database) == [code, code, None]
    assert_sound(database, batch_id)


@pytest.mark.parametrize("fault", FAILS)
def test_what_fails_for_a_while_ends_in_the_error_file_with_its_last_cause(database: Database, fault: str) -> None:
    batch_id = plan_lines(database)
    answer, code = FAILS[fault]
    first = http(b'{"error": {"code": "first_cause"}}', status=b"502 Bad Gateway")
    with raw_upstream(first, answer) as url:
        run_pump(database, pump_settings(url, {"timeout_s": 0.3}, max_attempts=3))
    assert error_codes(database) == ["first_cause", code, code]
    finish(database, batch_id)
    assert batch_of(database, batch_id).state == "completed"
    (line,) = errors_of(database, batch_id)
    error = line["error"] or line["response"]["body"]["error"]
    assert error["code"] == code
    assert_sound(database, batch_id)


def test_retries_end_with_the_window(database: Database) -> None:
    batch_id = plan_lines(database)
    with raw_upstream(http(b"", b"Retry-After: 3000", status=b"503 Service Unavailable")) as url:
        settings = pump_settings(url, claim_s=1)
        run_pump(database, settings)
    with database.transaction() as session:
        session.execute(text("update batches set expires_at = now()"))
    finish(database, batch_id)
    assert batch_of(database, batch_id).state == "expired"
    assert [line["error"]["code"] for line in errors_of(database, batch_id)] == ["batch_expired"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b"400 Bad Request", "bad_value"),
        (b"400 Bad Request", "content_filter"),
        (b"404 Not Found", "model_not_found"),
        (b"413 Payload Too Large", "too_large"),
    ],
)
def test_what_is_refused_is_not_retried(database: Database, status: bytes, code: str) -> None:
    batch_id = plan_lines(database, 3)
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    with raw_upstream(http(body, status=status), GOOD) as url:
        run_pump(database, pump_settings(url, max_in_flight=1))
    assert states_of(database, batch_id) == {"failed": 1, "succeeded": 2}
    assert error_codes(database) == [code, None, None]
    (line,) = errors_of(database, batch_id)
    assert line["response"]["status_code"] == int(status[:3])
    assert line["response"]["body"]["error"]["code"] == code
    assert_sound(database, batch_id)


def test_an_upstream_that_hangs_gives_its_slots_back(database: Database) -> None:
    batch_id = plan_lines(database, 6)
    with raw_upstream(None, None, None, GOOD) as url:
        run_pump(database, pump_settings(url, {"timeout_s": 0.3, "max_concurrency": 2}))
    assert states_of(database, batch_id) == {"succeeded": 6}
    assert error_codes(database).count("timeout") == 3
    assert_sound(database, batch_id)


@contextmanager
def full_backlog() -> Iterator[str]:
    """The base URL of a port that takes no connection and refuses none."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def test_connecting_that_hangs_ends_in_time_and_costs_nothing(database: Database) -> None:
    batch_id = plan_lines(database)
    started = time.monotonic()
    with full_backlog() as url:
        run_pump(database, pump_settings(url, {"connect_timeout_s": 0.3}, max_attempts=1))
    assert time.monotonic() - started < 20
    assert error_codes(database) == ["connection_error"]
    assert budget_of(database, batch_id).settled_nano == 0


@pytest.mark.parametrize(("limit", "says"), [("timeout_s", "no complete answer"), ("read_timeout_s", "nothing came")])
def test_an_answer_that_breaks_off_without_an_end_is_given_up(database: Database, limit: str, says: str) -> None:
    """The upstream sends the head of an answer and then nothing."""
    batch_id = plan_lines(database)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    with stuck_upstream(head) as url:
        run_pump(database, pump_settings(url, {limit: 0.3}, max_attempts=1))
    with database.transaction() as session:
        assert says in session.execute(text("select error_message from attempts")).scalar_one()
    assert states_of(database, batch_id) == {"failed": 1}


@contextmanager
def stuck_upstream(head: bytes) -> Iterator[str]:
    """Writes the same bytes to whoever comes, and keeps the connection."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed
                    return
                taken.append(connection)
                connection.sendall(head)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in taken:
                connection.close()


def test_clock_of_the_upstream_counts_where_it_names_a_time_of_day(database: Database) -> None:
    plan_lines(database)
    dates = (b"Date: Thu, 01 Jan 1970 00:00:10 GMT", b"Retry-After: Thu, 01 Jan 1970 00:01:40 GMT")
    with raw_upstream(http(b"", *dates, status=b"503 Service Unavailable")) as url:
        run_pump(database, pump_settings(url, claim_s=0.5))
    with database.transaction() as session:
        wait = session.execute(text("select extract(epoch from not_before - now()) from requests")).scalar_one()
    assert 80 < float(wait) <= 91
