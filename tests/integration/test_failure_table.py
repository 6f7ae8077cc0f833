"""What must follow from what happens, each row of the table with a real pump.

| what happens | shown by |
| --- | --- |
| 429, 5xx, timeout, reset, truncated or malformed JSON, empty choices | test_what_fails_for_a_while_... |
| 400, 404, 413, content filter | test_what_is_refused_... |
| 401, 403 | test_circuits |
| an upstream that hangs | test_an_upstream_that_hangs_..., test_connecting_..., test_an_upstream_that_dribbles_... |
| SIGTERM | test_sigterm_... |
| SIGKILL | test_sigkill_..., tests/e2e: test_journey, test_stress |
| Redis gone or emptied | test_redis_..., test_publisher, tests/e2e/test_journey |
| Postgres restarted | test_postgres_... |
| a poison request | test_suspects, tests/e2e/test_poison |
| clock of a host wrong by minutes | test_clock_... |
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from routing_service import ledger
from routing_service.batches import lease
from routing_service.batches.claim import claim
from routing_service.batches.finish import finish
from routing_service.batches.sweep import sweep
from routing_service.db import Database
from routing_service.pricing import price_book
from routing_service.results import render
from tests.factories import new_batch
from tests.fakes import FakePublisher
from tests.gated_upstream import gated_upstream
from tests.planned import Planned, make_planned_batch
from tests.pumping import budget_of, pump_settings, run_pump, states_of
from tests.raw_upstream import http, raw_upstream
from tests.reading import batch_of
from tests.sandbox_server import run_sandbox
from tests.working import work

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


def planned(database: Database, lines: int = 1) -> str:
    with database.transaction() as session:
        return make_planned_batch(session, [Planned(prompt=f"Prompt {n}") for n in range(lines)])


def attempts(database: Database) -> list[str | None]:
    """The error codes of all attempts."""
    with database.transaction() as session:
        return list(session.scalars(text("select error_code from attempts order by id")))


def errors_of(database: Database, batch_id: str) -> list[Any]:
    return [orjson.loads(line) for piece in render(database, batch_id, errors=True) for line in piece.splitlines()]


def assert_sound(database: Database, batch_id: str) -> None:
    assert budget_of(database, batch_id).reserved_nano == 0
    with database.transaction() as session:
        assert ledger.verify(session) == []


@pytest.mark.parametrize("fault", FAILS)
def test_what_fails_for_a_while_is_retried_until_it_is_answered(database: Database, fault: str) -> None:
    batch_id = planned(database)
    answer, code = FAILS[fault]
    with raw_upstream(answer, answer, GOOD) as url:
        run_pump(database, pump_settings(url, {"timeout_s": 0.3}, max_attempts=4))
    assert states_of(database, batch_id) == {"succeeded": 1}
    assert attempts(database) == [code, code, None]
    assert_sound(database, batch_id)


@pytest.mark.parametrize("fault", FAILS)
def test_what_fails_for_a_while_ends_in_the_error_file_with_its_last_cause(database: Database, fault: str) -> None:
    batch_id = planned(database)
    answer, code = FAILS[fault]
    first = http(b'{"error": {"code": "first_cause"}}', status=b"502 Bad Gateway")
    with raw_upstream(first, answer) as url:
        run_pump(database, pump_settings(url, {"timeout_s": 0.3}, max_attempts=3))
    assert attempts(database) == ["first_cause", code, code]
    finish(database, batch_id)
    assert batch_of(database, batch_id).state == "completed"
    (line,) = errors_of(database, batch_id)
    error = line["error"] or line["response"]["body"]["error"]
    assert error["code"] == code
    assert_sound(database, batch_id)


def test_retries_end_with_the_window(database: Database) -> None:
    batch_id = planned(database)
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
    batch_id = planned(database, 3)
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    with raw_upstream(http(body, status=status), GOOD) as url:
        run_pump(database, pump_settings(url, max_in_flight=1))
    assert states_of(database, batch_id) == {"failed": 1, "succeeded": 2}
    assert attempts(database) == [code, None, None]
    (line,) = errors_of(database, batch_id)
    assert line["response"]["status_code"] == int(status[:3])
    assert line["response"]["body"]["error"]["code"] == code
    assert_sound(database, batch_id)


def test_an_upstream_that_hangs_gives_its_slots_back(database: Database) -> None:
    batch_id = planned(database, 6)
    with raw_upstream(None, None, None, GOOD) as url:
        run_pump(database, pump_settings(url, {"timeout_s": 0.3, "max_concurrency": 2}))
    assert states_of(database, batch_id) == {"succeeded": 6}
    assert attempts(database).count("timeout") == 3
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
    batch_id = planned(database)
    started = time.monotonic()
    with full_backlog() as url:
        run_pump(database, pump_settings(url, {"connect_timeout_s": 0.3}, max_attempts=1))
    assert time.monotonic() - started < 20
    assert attempts(database) == ["connection_error"]
    assert budget_of(database, batch_id).settled_nano == 0


@pytest.mark.parametrize(("limit", "says"), [("timeout_s", "no complete answer"), ("read_timeout_s", "nothing came")])
def test_an_answer_that_breaks_off_without_an_end_is_given_up(database: Database, limit: str, says: str) -> None:
    """The upstream sends the head of an answer and then nothing."""
    batch_id = planned(database)
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


def test_sigterm_stops_claiming_and_settles_what_is_in_flight(database: Database) -> None:
    batch_id = planned(database, 20)
    stopping = threading.Event()
    with gated_upstream() as gate, ThreadPoolExecutor(1) as thread:
        settings = pump_settings(gate.base_url, max_in_flight=4)
        pump = thread.submit(run_pump, database, settings, stopping.is_set)
        gate.wait_for(4)
        stopping.set()
        gate.let()
        pump.result(20)
        assert gate.calls == 4
    assert states_of(database, batch_id) == {"succeeded": 4, "scored": 16}
    with database.transaction() as session:
        assert session.scalar(text("select count(*) from pumps where expires_at > now()")) == 0
    assert_sound(database, batch_id)


def test_sigterm_waits_no_longer_than_the_grace_period(database: Database) -> None:
    """What is not back by then is charged in full and tried again, and is held against nobody."""
    batch_id = planned(database, 20)
    stopping = threading.Event()
    with gated_upstream() as gate, ThreadPoolExecutor(1) as thread:
        settings = pump_settings(gate.base_url, max_in_flight=12, grace_s=0.3)
        pump = thread.submit(run_pump, database, settings, stopping.is_set)
        gate.wait_for(4)
        gate.let(1)  # before that, no more are sent
        gate.wait_for(13)
        stopping.set()
        pump.result(20)
    assert states_of(database, batch_id) == {"scored": 19, "succeeded": 1}
    assert sorted(map(str, attempts(database))) == ["None"] + ["worker_stopped"] * 12
    with database.transaction() as session:
        broken_off = text("select bool_and(cost_nano = reserved_nano) from attempts where state = 'unknown'")
        assert session.scalar(broken_off)
        assert session.execute(text("select max(losses), max(tries) from requests")).one() == (0, 1)
        assert session.scalar(text("select count(*) from model_circuits")) == 0
        assert session.scalar(text("select count(*) from pumps where expires_at > now()")) == 0
    assert_sound(database, batch_id)


def test_sigkill_leaves_a_lease_that_runs_out_and_the_sweep_recovers(database: Database) -> None:
    batch_id = planned(database, 3)
    settings = pump_settings("http://127.0.0.1:9/v1")
    with database.transaction() as session:
        held = lease.open_lease(database, 0.5)
        claim(session, settings, price_book(settings), held.pump_id, batch_id, {"weak": 9, "strong": 9})
    sweep(database, settings, FakePublisher())
    until = time.monotonic() + 20
    while states_of(database, batch_id) != {"scored": 3}:
        assert time.monotonic() < until
        sweep(database, settings, FakePublisher())
    assert attempts(database) == ["worker_lost"] * 3
    assert_sound(database, batch_id)


class DeafPublisher(FakePublisher):
    """Has messages to be worked off, and loses all that are sent to it."""

    def __init__(self, events: list[tuple[str | int, ...]]) -> None:
        super().__init__()
        self.events = Losing(events)


class Losing(list[tuple[str | int, ...]]):
    def append(self, event: tuple[str | int, ...]) -> None:
        pass


def test_redis_gone_or_emptied_at_every_step_is_made_up_for_by_the_sweep(database: Database) -> None:
    with run_sandbox(latency_ms=1) as sandbox:
        settings = pump_settings(sandbox.base_url, claim_s=5)
        quick = settings.sweep.model_copy(update={"interval_s": 1e-6, "announce_after_s": 1e-6})
        settings = settings.model_copy(update={"sweep": quick})
        batch_id = new_batch(database, 30)
        for _ in range(20):
            found = FakePublisher()
            sweep(database, settings, found)
            work(database, settings, DeafPublisher(found.events))
            if batch_of(database, batch_id).state == "completed":
                break
        assert sandbox.billed_nano() == budget_of(database, batch_id).settled_nano
    assert states_of(database, batch_id) == {"succeeded": 30}
    assert_sound(database, batch_id)


def test_postgres_gone_while_calls_are_in_flight_is_waited_for(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = planned(database, 20)
    url = make_url(database_url)
    plain = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with gated_upstream() as gate, ThreadPoolExecutor(1) as thread, psycopg.connect(plain, autocommit=True) as operator:
        settings = pump_settings(gate.base_url, max_in_flight=8)
        pump = thread.submit(run_pump, database, settings)
        gate.wait_for(4)
        operator.execute(f"alter database {url.database} allow_connections false")
        operator.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (url.database,))
        gate.let()
        until = time.monotonic() + 20
        while "the database is away" not in caplog.text:
            assert time.monotonic() < until
            time.sleep(0.05)
        operator.execute(f"alter database {url.database} allow_connections true")
        pump.result(30)
        assert gate.calls == 20
    assert states_of(database, batch_id) == {"succeeded": 20}
    assert attempts(database) == [None] * 20
    assert_sound(database, batch_id)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_clock_of_a_host_that_is_wrong_neither_takes_a_lease_nor_keeps_one(
    database: Database, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = planned(database, 8)
    right = time.time
    with gated_upstream() as gate, ThreadPoolExecutor(1) as thread:
        settings = pump_settings(gate.base_url, max_in_flight=4)
        pump = thread.submit(run_pump, database, settings)
        gate.wait_for(4)
        monkeypatch.setattr(time, "time", lambda: right() + 60 * minutes)
        sweep(database, settings, FakePublisher())
        assert states_of(database, batch_id) == {"dispatching": 4, "scored": 4}
        gate.let()
        pump.result(30)
        held = lease.open_lease(database, 30)
        with database.transaction() as session:
            query = text("select extract(epoch from expires_at - now()) from pumps where id = :id")
            assert 20 < float(session.execute(query, {"id": held.pump_id}).scalar_one()) <= 30
    assert states_of(database, batch_id) == {"succeeded": 8}
    assert attempts(database) == [None] * 8


def test_clock_of_the_upstream_counts_where_it_names_a_time_of_day(database: Database) -> None:
    planned(database)
    dates = (b"Date: Thu, 01 Jan 1970 00:00:10 GMT", b"Retry-After: Thu, 01 Jan 1970 00:01:40 GMT")
    with raw_upstream(http(b"", *dates, status=b"503 Service Unavailable")) as url:
        run_pump(database, pump_settings(url, claim_s=0.5))
    with database.transaction() as session:
        wait = session.execute(text("select extract(epoch from not_before - now()) from requests")).scalar_one()
    assert 80 < float(wait) <= 91
