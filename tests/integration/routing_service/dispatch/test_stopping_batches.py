"""Pause, cancel and expiry while calls are in flight: nothing more is sent, and what comes back is settled and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from routing_service.batches.lifecycle import cancel, pause, resume
from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.events import FinishDue
from routing_service.models import BatchState
from routing_service.money import ledger
from routing_service.openai_format import output
from routing_service.settings import Settings
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch
from tests.support.pumping import budget_of, pump_settings, run_pump, states_of
from tests.support.reading import batch_of
from tests.support.upstreams.gated import Gate, gated_upstream

LINES, IN_FLIGHT = 20, 4


@contextmanager
def in_flight(database: Database, batch_id: str) -> Iterator[tuple[Gate, Settings]]:
    """The batch's first calls are in flight in the block; then they are answered, and the pump runs to its end."""
    with gated_upstream() as gate, ThreadPoolExecutor(1) as thread:
        settings = pump_settings(gate.base_url, max_in_flight=IN_FLIGHT)
        pump = thread.submit(run_pump, database, settings)
        try:
            gate.wait_for(IN_FLIGHT)
            yield gate, settings
        finally:
            gate.let()
            pump.result(30)


def planned(database: Database) -> str:
    with database.transaction() as session:
        return make_planned_batch(session, [Planned(prompt=f"Prompt {n}") for n in range(LINES)])


def assert_settled(database: Database, batch_id: str, calls: int) -> None:
    """So many calls were made and each is paid; nothing is reserved any more."""
    with database.transaction() as session:
        assert ledger.verify(session) == []
        assert session.scalar(text("select count(*) from attempts where state = 'succeeded'")) == calls
        assert session.scalar(text("select count(*) from attempts")) == calls
    budget = budget_of(database, batch_id)
    assert budget.reserved_nano == 0
    assert budget.settled_nano > 0


def test_pausing_stops_claims_at_once_and_what_is_in_flight_is_settled(database: Database) -> None:
    batch_id = planned(database)
    owner = batch_of(database, batch_id).api_key_id
    with in_flight(database, batch_id) as (gate, settings):
        pause(database, owner, batch_id)
    assert gate.calls == IN_FLIGHT
    assert states_of(database, batch_id) == {"succeeded": IN_FLIGHT, "scored": LINES - IN_FLIGHT}
    assert_settled(database, batch_id, IN_FLIGHT)
    with gated_upstream() as gate:
        gate.let()
        settings = pump_settings(gate.base_url)
        run_pump(database, settings)
        assert gate.calls == 0
        resume(database, FakePublisher(), owner, batch_id)
        run_pump(database, settings)
        assert gate.calls == LINES - IN_FLIGHT  # it goes on where it stood
    assert states_of(database, batch_id) == {"succeeded": LINES}
    assert_settled(database, batch_id, LINES)


def _cancel(database: Database, batch_id: str, settings: Settings) -> None:
    publisher = FakePublisher()
    cancel(database, publisher, batch_of(database, batch_id).api_key_id, batch_id)
    assert publisher.events == [FinishDue(batch_id)]


def _expire(database: Database, batch_id: str, settings: Settings) -> None:
    """Its window ends, and the sweep sees it."""
    with database.transaction() as session:
        session.execute(text("update batches set expires_at = now(), announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(database, settings, publisher)
    assert publisher.events[0] == FinishDue(batch_id)


@pytest.mark.parametrize(
    ("stop", "state", "code"),
    [(_cancel, BatchState.CANCELLED, b"batch_cancelled"), (_expire, BatchState.EXPIRED, b"batch_expired")],
)
@pytest.mark.parametrize("is_paused", [False, True])
def test_a_batch_that_is_stopped_settles_what_is_in_flight_and_keeps_its_answers(
    database: Database, stop: Callable[[Database, str, Settings], None], state: BatchState, code: bytes, is_paused: bool
) -> None:
    batch_id = planned(database)
    with in_flight(database, batch_id) as (gate, settings):
        if is_paused:
            pause(database, batch_of(database, batch_id).api_key_id, batch_id)
        stop(database, batch_id, settings)
        assert not finish(database, batch_id)
        assert states_of(database, batch_id) == {"dispatching": IN_FLIGHT, state: LINES - IN_FLIGHT}
    assert gate.calls == IN_FLIGHT
    assert_settled(database, batch_id, IN_FLIGHT)
    assert finish(database, batch_id)
    batch = batch_of(database, batch_id)
    assert (batch.state, batch.succeeded, batch.failed) == (state, IN_FLIGHT, LINES - IN_FLIGHT)
    assert b"".join(output.render(database, batch_id, errors=False)).count(b"\n") == IN_FLIGHT
    assert b"".join(output.render(database, batch_id, errors=True)).count(code) == LINES - IN_FLIGHT


def test_a_request_that_is_to_be_tried_again_after_its_batch_expired_ends_with_it(database: Database) -> None:
    """An attempt that fails after the window is not followed by another."""
    batch_id = planned(database)
    with in_flight(database, batch_id) as (gate, settings):
        gate.fails = True
        _expire(database, batch_id, settings)
        assert not finish(database, batch_id)
    assert gate.calls == IN_FLIGHT
    assert finish(database, batch_id)
    assert states_of(database, batch_id) == {"expired": LINES}
    assert batch_of(database, batch_id).state is BatchState.EXPIRED
