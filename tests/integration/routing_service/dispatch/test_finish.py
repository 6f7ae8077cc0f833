"""Finishing and the sweep: every batch ends in the right state, and whatever nobody announced is announced again."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.events import DispatchDue, FinishDue, IngestDue, PlanDue, ScoreDue
from routing_service.ingest.ingest import ingest
from routing_service.models import Batch, BatchState, File
from routing_service.money.pricing import price_book
from routing_service.openai_format import output
from tests.support.factories import ingested_batch, make_settings, new_batch
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch

SETTINGS = make_settings()


def _batch(database: Database, batch_id: str) -> Batch:
    with database.transaction() as session:
        return session.get_one(Batch, batch_id)


def _planned(database: Database, requests: int = 4) -> str:
    with database.transaction() as session:
        return make_planned_batch(session, [Planned()] * requests)


def _end(database: Database, batch_id: str, *, succeeded: int, failed: int) -> None:
    """The first requests succeed, the next fail; the counters follow."""
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set finished_at = now(), state = cast(case when line <= :succeeded then 'succeeded'"
                " else 'failed' end as request_state), response = '{}',"
                " status_code = case when line <= :succeeded then 200 else 500 end,"
                " model = 'weak', error_code = 'e', error_message = 'm'"
                " where batch_id = :id and line <= :succeeded + :failed"
            ),
            {"id": batch_id, "succeeded": succeeded, "failed": failed},
        )
        session.execute(
            text(
                "update batches set succeeded = :succeeded, failed = :failed,"
                " floor_nano = (select coalesce(sum(floor_nano), 0)"
                " from requests where batch_id = :id and state = 'scored') where id = :id"
            ),
            {"id": batch_id, "succeeded": succeeded, "failed": failed},
        )


def _set(database: Database, batch_id: str, assignment: str) -> None:
    with database.transaction() as session:
        session.execute(text(f"update batches set {assignment} where id = :id"), {"id": batch_id})


def test_a_batch_with_open_requests_is_not_finished(database: Database) -> None:
    batch_id = _planned(database)
    _end(database, batch_id, succeeded=3, failed=0)
    assert not finish(database, batch_id)
    assert _batch(database, batch_id).state is BatchState.IN_PROGRESS


def test_a_batch_completes_with_files_of_exactly_the_stated_size(database: Database) -> None:
    batch_id = _planned(database)
    _end(database, batch_id, succeeded=3, failed=1)
    assert finish(database, batch_id)
    assert not finish(database, batch_id)
    batch = _batch(database, batch_id)
    assert batch.state is BatchState.COMPLETED
    assert batch.finalizing_at is not None
    with database.transaction() as session:
        for file_id, errors, lines in ((batch.output_file_id, False, 3), (batch.error_file_id, True, 1)):
            content = b"".join(output.render(database, batch_id, errors=errors))
            assert session.get_one(File, file_id).bytes == len(content)
            assert content.count(b"\n") == lines


def test_a_batch_whose_requests_all_failed_completes_without_an_output_file(database: Database) -> None:
    batch_id = _planned(database)
    _end(database, batch_id, succeeded=0, failed=4)
    assert finish(database, batch_id)
    batch = _batch(database, batch_id)
    assert (batch.state, batch.output_file_id) == (BatchState.COMPLETED, None)
    assert batch.error_file_id is not None


@pytest.mark.parametrize(
    ("assignment", "state", "code"),
    [
        ("state = 'cancelling', cancelling_at = now()", BatchState.CANCELLED, b"batch_cancelled"),
        ("expires_at = now()", BatchState.EXPIRED, b"batch_expired"),
    ],
)
def test_a_batch_that_is_stopped_keeps_its_answers_and_names_the_rest(
    database: Database, assignment: str, state: BatchState, code: bytes
) -> None:
    batch_id = _planned(database)
    _end(database, batch_id, succeeded=1, failed=0)
    _set(database, batch_id, assignment)
    assert finish(database, batch_id)
    batch = _batch(database, batch_id)
    assert (batch.state, batch.succeeded, batch.failed, batch.floor_nano) == (state, 1, 3, 0)
    assert b"".join(output.render(database, batch_id, errors=True)).count(code) == 3


@pytest.mark.parametrize("assignment", ["state = 'cancelling', cancelling_at = now()", "expires_at = now()"])
def test_what_is_in_flight_is_settled_before_a_batch_stops(database: Database, assignment: str) -> None:
    batch_id = _planned(database)
    with database.transaction() as session:
        session.execute(text("insert into pumps (host, pid, expires_at) values ('h', 1, now() + interval '1 hour')"))
        session.execute(
            text("update requests set state = 'dispatching', pump_id = (select max(id) from pumps) where line = 1")
        )
    _set(database, batch_id, assignment)
    assert not finish(database, batch_id)
    assert _batch(database, batch_id).failed == 3
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set state = 'succeeded', pump_id = null, finished_at = now(), response = '{}'"
                " where line = 1"
            )
        )
    _set(database, batch_id, "succeeded = 1")
    assert finish(database, batch_id)
    assert _batch(database, batch_id).succeeded == 1


def test_a_batch_cancelled_while_it_is_validated_ends_without_files(database: Database) -> None:
    batch_id = new_batch(database, b"{}\n")
    _set(database, batch_id, "state = 'cancelling', cancelling_at = now()")
    assert finish(database, batch_id)
    batch = _batch(database, batch_id)
    assert (batch.state, batch.output_file_id, batch.error_file_id) == (BatchState.CANCELLED, None, None)


def test_what_was_not_sent_ends_in_small_steps_with_the_same_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing_service.dispatch.finish.LINES_AT_ONCE", 3)
    for assignment, state in (
        ("state = 'cancelling', cancelling_at = now()", BatchState.CANCELLED),
        ("expires_at = now()", BatchState.EXPIRED),
    ):
        batch_id = _planned(database, 10)
        _set(database, batch_id, assignment)
        assert finish(database, batch_id)
        batch = _batch(database, batch_id)
        assert (batch.state, batch.failed, batch.floor_nano) == (state, 10, 0)


def test_a_batch_that_was_done_before_it_expired_is_completed(database: Database) -> None:
    batch_id = _planned(database)
    _end(database, batch_id, succeeded=3, failed=1)
    _set(database, batch_id, "expires_at = now()")
    assert finish(database, batch_id)
    assert _batch(database, batch_id).state is BatchState.COMPLETED


def test_a_batch_that_is_ingested_while_it_expires_loses_no_request(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    batch_id = new_batch(database, 3)
    _set(database, batch_id, "expires_at = now()")

    def ingest_first(session: object, name: str) -> bool:
        return bool(ingest(database, settings, price_book(settings), batch_id))

    with monkeypatch.context() as between:
        between.setattr("routing_service.dispatch.finish.try_lock", ingest_first)
        assert not finish(database, batch_id)
    assert finish(database, batch_id)
    batch = _batch(database, batch_id)
    assert (batch.state, batch.total, batch.failed) == (BatchState.EXPIRED, 3, 3)


def test_the_sweep_announces_what_nobody_took_up(database: Database) -> None:
    validating = new_batch(database, b"{}\n")
    ingested = ingested_batch(database, 3, SETTINGS)
    planned, done, cancelling = _planned(database), _planned(database), _planned(database)
    _end(database, done, succeeded=4, failed=0)
    _set(database, cancelling, "state = 'cancelling', cancelling_at = now()")
    with database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 hour'"))
        session.execute(text("update score_ranges set announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert set(publisher.events) == {
        IngestDue(validating),
        ScoreDue(ingested, 1),
        FinishDue(done),
        FinishDue(cancelling),
        DispatchDue(),
    }
    assert _batch(database, planned).state is BatchState.IN_PROGRESS


def test_the_sweep_leaves_alone_what_was_just_announced(database: Database) -> None:
    new_batch(database, b"{}\n")
    ingested_batch(database, 3, SETTINGS)
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert publisher.events == []


def test_a_batch_whose_plan_was_lost_is_planned_by_the_sweep(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    with database.transaction() as session:
        session.execute(text("update score_ranges set done_at = now()"))
        session.execute(text("update batches set announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert publisher.events == [PlanDue(batch_id)]
