"""What must follow from what happens to processes, services and hosts, each row of the table with a real pump.

| what happens | shown by |
| --- | --- |
| SIGTERM | test_sigterm_... |
| SIGKILL | test_sigkill_..., tests/e2e: test_journey, test_stress |
| Redis gone or emptied | test_redis_..., test_publisher, tests/e2e/test_journey |
| Postgres restarted | test_postgres_... |
| clock of a host wrong by minutes | test_clock_... |

`test_failure_table` has the rows of upstreams.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import claim
from routing_service.dispatch.sweep import sweep
from routing_service.events import Event
from routing_service.money.pricing import price_book
from tests.support.factories import new_batch
from tests.support.fakes import FakePublisher
from tests.support.pumping import assert_sound, budget_of, error_codes, plan_lines, pump_settings, run_pump, states_of
from tests.support.reading import batch_of
from tests.support.upstreams.gated import gated_upstream
from tests.support.upstreams.sandbox_server import run_sandbox
from tests.support.working import work


def test_sigterm_stops_claiming_and_settles_what_is_in_flight(database: Database) -> None:
    batch_id = plan_lines(database, 20)
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
    batch_id = plan_lines(database, 20)
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
    assert sorted(map(str, error_codes(database))) == ["None"] + ["worker_stopped"] * 12
    with database.transaction() as session:
        broken_off = text("select bool_and(cost_nano = reserved_nano) from attempts where state = 'unknown'")
        assert session.scalar(broken_off)
        assert session.execute(text("select max(losses), max(tries) from requests")).one() == (0, 1)
        assert session.scalar(text("select count(*) from model_circuits")) == 0
        assert session.scalar(text("select count(*) from pumps where expires_at > now()")) == 0
    assert_sound(database, batch_id)


def test_sigkill_leaves_a_lease_that_runs_out_and_the_sweep_recovers(database: Database) -> None:
    batch_id = plan_lines(database, 3)
    settings = pump_settings("http://127.0.0.1:9/v1")
    with database.transaction() as session:
        held = lease.open_lease(database, 0.5)
        claim(session, settings, price_book(settings), held.pump_id, batch_id, {"weak": 9, "strong": 9})
    sweep(database, settings, FakePublisher())
    until = time.monotonic() + 20
    while states_of(database, batch_id) != {"scored": 3}:
        assert time.monotonic() < until
        sweep(database, settings, FakePublisher())
    assert error_codes(database) == ["worker_lost"] * 3
    assert_sound(database, batch_id)


class DeafPublisher(FakePublisher):
    """Has messages to be worked off, and loses all that are sent to it."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self.events = events

    def publish(self, event: Event) -> None:
        """Nobody hears it."""


def test_redis_gone_or_emptied_at_every_step_is_made_up_for_by_the_sweep(database: Database) -> None:
    with run_sandbox(latency_ms=1) as sandbox:
        settings = pump_settings(sandbox.base_url, claim_s=5)
        quick = settings.sweep.model_copy(update={"interval_s": 1e-6, "announce_after_s": 1e-6})
        settings = settings.model_copy(update={"sweep": quick})
        batch_id = new_batch(database, 30)
        for _ in range(20):
            announced = FakePublisher()
            sweep(database, settings, announced)
            work(database, settings, DeafPublisher(announced.events))
            if batch_of(database, batch_id).state == "completed":
                break
        assert sandbox.billed_nano() == budget_of(database, batch_id).settled_nano
    assert states_of(database, batch_id) == {"succeeded": 30}
    assert_sound(database, batch_id)


def test_postgres_gone_while_calls_are_in_flight_is_waited_for(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = plan_lines(database, 20)
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
    assert error_codes(database) == [None] * 20
    assert_sound(database, batch_id)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_clock_of_a_host_that_is_wrong_neither_takes_a_lease_nor_keeps_one(
    database: Database, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = plan_lines(database, 8)
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
    assert error_codes(database) == [None] * 8
