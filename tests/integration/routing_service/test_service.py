"""The service: each event does its use case and publishes what follows, and one that comes twice does no harm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from routing_service.db import Database
from routing_service.events import (
    DispatchDue,
    Event,
    FinishDue,
    FitLengthsDue,
    IngestDue,
    PlanDue,
    ScoreDue,
    SweepDue,
)
from routing_service.models import BatchState
from routing_service.scoring.length_model import LEAST_ROWS
from routing_service.service import Service, handle
from tests.support.factories import NO_BROKER, STRONG, WEAK, make_settings, new_batch
from tests.support.fakes import FakePublisher
from tests.support.pumping import assert_sound, states_of
from tests.support.reading import batch_of
from tests.support.settled import answer, fits
from tests.support.upstreams.sandbox_server import run_sandbox

RANGE = 4


@pytest.fixture
def service(database: Database) -> Iterator[Service]:
    with run_sandbox(latency_ms=1) as sandbox:
        at = {"base_url": sandbox.base_url}
        settings = make_settings(
            models={"strong": STRONG | at, "weak": WEAK | at},
            score={"range_lines": RANGE, "ranges_at_once": 1},
            dispatch={"idle_s": 0.3, "settle_interval_ms": 20},
            sweep={"announce_after_s": 1e-6, "interval_s": 1e-6},
            broker_url=NO_BROKER,
        )
        service = Service(database, settings, FakePublisher())
        yield service
        service.close()


def published(service: Service, *events: Event) -> Sequence[Event]:
    """What handling the events, one after the other, published."""
    assert isinstance(service.publisher, FakePublisher)
    service.publisher.events.clear()
    for event in events:
        handle(service, event)
    return list(service.publisher.events)


def test_a_batch_goes_from_its_file_to_its_results_event_by_event(service: Service) -> None:
    batch_id = new_batch(service.database, 6)
    assert published(service, IngestDue(batch_id)) == [ScoreDue(batch_id, 1)]
    assert published(service, ScoreDue(batch_id, 1)) == [ScoreDue(batch_id, 5)]
    assert published(service, ScoreDue(batch_id, 5)) == [PlanDue(batch_id)]
    assert published(service, PlanDue(batch_id)) == [DispatchDue()]
    assert FinishDue(batch_id) in published(service, DispatchDue())
    assert published(service, FinishDue(batch_id)) == []
    assert batch_of(service.database, batch_id).state is BatchState.COMPLETED
    assert states_of(service.database, batch_id) == {"succeeded": 6}
    assert_sound(service.database, batch_id)


def test_events_that_come_twice_do_no_harm(service: Service) -> None:
    batch_id = new_batch(service.database, 6)
    assert published(service, IngestDue(batch_id), IngestDue(batch_id)) == [ScoreDue(batch_id, 1), FinishDue(batch_id)]
    published(service, ScoreDue(batch_id, 1), ScoreDue(batch_id, 1), ScoreDue(batch_id, 5))
    # The message of the plan may have been lost: whoever scores a range of a batch without open ones says it again.
    assert published(service, ScoreDue(batch_id, 5)) == [PlanDue(batch_id)]
    assert published(service, PlanDue(batch_id), PlanDue(batch_id)) == [DispatchDue()]
    published(service, DispatchDue(), DispatchDue(), FinishDue(batch_id), FinishDue(batch_id))
    assert batch_of(service.database, batch_id).state is BatchState.COMPLETED
    assert states_of(service.database, batch_id) == {"succeeded": 6}
    assert_sound(service.database, batch_id)


def test_a_batch_that_is_unknown_or_failed_is_left_alone(service: Service) -> None:
    refused = new_batch(service.database, b"no JSON\n")
    assert published(service, IngestDue(refused)) == []
    assert batch_of(service.database, refused).state is BatchState.FAILED
    assert published(service, ScoreDue(refused, 1), PlanDue(refused), FinishDue(refused), DispatchDue()) == []
    assert published(service, IngestDue("batch_unknown"), PlanDue("batch_unknown")) == [FinishDue("batch_unknown")]
    assert batch_of(service.database, refused).state is BatchState.FAILED


def test_a_sweep_announces_what_nobody_announced(service: Service) -> None:
    validating, ready = new_batch(service.database, 1), new_batch(service.database, 1)
    published(service, IngestDue(ready), ScoreDue(ready, 1))
    assert set(published(service, SweepDue())) == {IngestDue(validating), PlanDue(ready)}
    published(service, PlanDue(ready))
    assert DispatchDue() in published(service, SweepDue())


def test_lengths_are_learnt_once_from_what_was_answered(service: Service) -> None:
    answer(service.database, range(LEAST_ROWS), tokens=lambda _: 5)
    assert published(service, FitLengthsDue()) == []
    learnt = fits(service.database)["weak"]
    published(service, FitLengthsDue())
    assert fits(service.database)["weak"].id == learnt.id


def test_a_service_that_is_to_stop_dispatches_nothing_and_rings_for_another(service: Service) -> None:
    batch_id = new_batch(service.database, 2)
    published(service, IngestDue(batch_id), ScoreDue(batch_id, 1), PlanDue(batch_id))
    service.stopping = lambda: True
    assert published(service, DispatchDue()) == [DispatchDue()]
    assert states_of(service.database, batch_id) == {"scored": 2}
