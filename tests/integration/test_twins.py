"""Twins: they end as the line that was asked in their stead, whatever happens to it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.dispatch import finish as twins
from routing_service.dispatch import lease
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.models import RequestState
from routing_service.money.pricing import NANO
from routing_service.openai_format.output import render
from tests.duplicated import DETERMINISTIC, lines, requests_of
from tests.factories import planned_batch
from tests.fakes import FakePublisher
from tests.integration.test_money_flow import KINDS, SETTINGS, SLOTS, World
from tests.reading import batch_of


def world(database: Database, batch_id: str) -> World:
    return World(database, batch_id, [lease.open_lease(database, 60) for _ in range(2)])


class _DyingDatabase:
    """A database whose process dies after so many transactions."""

    def __init__(self, database: Database, transactions: int) -> None:
        self._database, self._left = database, transactions

    def transaction(self) -> AbstractContextManager[Session]:
        self._left -= 1
        if self._left < 0:
            raise SystemExit("killed")
        return self._database.transaction()


@pytest.mark.parametrize("transactions", range(6))
def test_a_process_killed_between_an_answer_and_its_twins_loses_and_doubles_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    monkeypatch.setattr(twins, "LINES_AT_ONCE", 3)
    batch_id = planned_batch(database, lines("a", *"ab" * 5), SETTINGS, options=DETERMINISTIC)
    moving = world(database, batch_id)
    moving.claim(0, {"weak": 9, "strong": 9})
    moving.settle(["usage", "usage"])
    with pytest.raises(SystemExit):
        finish(_DyingDatabase(database, transactions), batch_id)  # type: ignore[arg-type]
    publisher = FakePublisher()
    with database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 hour'"))
    sweep(database, SETTINGS, publisher)
    assert ("finish", batch_id) in publisher.events
    assert moving.drain() == "completed"
    batch = batch_of(database, batch_id)
    assert (batch.succeeded, batch.failed, batch.total) == (11, 0, 11)
    first, other = requests_of(database, batch_id)[0], requests_of(database, batch_id)[2]
    assert batch.duplicates_saved_nano == 5 * first.cost_nano + 4 * other.cost_nano > 0


STEPS = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 1), SLOTS),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("end"), st.sampled_from(["cancel", "expire"])),
)


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.sampled_from("abcd"), min_size=2, max_size=12),
    steps=st.lists(STEPS, max_size=10),
    budget=st.sampled_from([0, 50_000, 20_000_000, NANO]),
    stops=st.booleans(),
)
def test_twins_end_as_the_line_that_was_asked_ended(
    database: Database, prompts: list[str], steps: list[tuple[object, ...]], budget: int, stops: bool
) -> None:
    options = {"dedupe": "deterministic", "on_budget": "stop" if stops else "wait"}
    batch_id = planned_batch(database, lines(*prompts), SETTINGS, options=options)
    with database.transaction() as session:  # as if others had spent the rest
        session.execute(text("update budgets set limit_nano = :n where batch_id = :id"), {"n": budget, "id": batch_id})
    moving = world(database, batch_id)
    for name, *arguments in steps:
        getattr(moving, str(name))(*arguments)
        moving.check()
    ended = moving.drain()
    for held in moving.pumps:
        lease.close_lease(database, held)
    requests = requests_of(database, batch_id)
    batch = batch_of(database, batch_id)
    assert ended == "paused" or batch.succeeded + batch.failed == batch.total
    saved = 0
    for request in requests:
        if request.twin_of is None:
            continue
        first = requests[request.twin_of - 1]
        assert first.twin_of is None
        assert (request.attempts, request.cost_nano, request.response) == (0, 0, None)
        if ended == "paused":
            assert request.state is RequestState.QUEUED
            continue
        assert (request.state, request.model, request.error_code) == (first.state, first.model, first.error_code)
        assert request.finished_at
        saved += first.cost_nano if first.state is RequestState.SUCCEEDED else 0
    assert batch.duplicates_saved_nano == saved
    with database.transaction() as session:
        asked = text("select count(*) from attempts join requests using (batch_id, line) where twin_of is not null")
        assert session.scalar(asked) == 0


def test_the_twins_of_a_refused_line_are_in_the_error_file_with_its_cause(database: Database) -> None:
    batch_id = planned_batch(database, lines("a", "a"), SETTINGS, options=DETERMINISTIC)
    moving = world(database, batch_id)
    moving.claim(0, {"weak": 1, "strong": 1})
    moving.settle(["refused"])
    assert moving.drain() == "completed"
    batch = batch_of(database, batch_id)
    assert (batch.succeeded, batch.failed, batch.output_file_id) == (0, 2, None)
    first, twin = (
        json.loads(row)["response"] for row in b"".join(render(database, batch_id, errors=True)).splitlines()
    )
    assert first["status_code"] == 400
    assert twin == first | {"routing": first["routing"] | {"reason": "duplicate"}}
