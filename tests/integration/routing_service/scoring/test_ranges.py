"""Ranges are announced in turn: a few of each key at a time, and nobody waits for all of a large batch."""

from __future__ import annotations

from sqlalchemy import text

from routing_service.batches.lifecycle import pause
from routing_service.batches.pauses import pause_for_models
from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.events import DispatchDue, Event, IngestDue, PlanDue, ScoreDue
from routing_service.ingest.ingest import ingest
from routing_service.models import ApiKey
from routing_service.money.pricing import price_book
from routing_service.routers.registry import Routers
from routing_service.scoring.score import announce_ranges, score
from tests.support.factories import chat_file, make_batch, make_file, make_key, make_settings
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of
from tests.support.working import work

LINES, AT_ONCE = 2, 3
SETTINGS = make_settings(score={"range_lines": LINES, "ranges_at_once": AT_ONCE})


def new_key(database: Database) -> str:
    with database.transaction() as session:
        return make_key(session).id


def new_batch(database: Database, key_id: str, ranges: int, priority: int = 5) -> str:
    """A batch of the key that has so many ranges once it is ingested."""
    with database.transaction() as session:
        key = session.get_one(ApiKey, key_id)
        file = make_file(session, key, chat_file(LINES * ranges))
        return make_batch(session, key, file, priority=priority).id


def ingested(database: Database, key_id: str, ranges: int, priority: int = 5) -> str:
    batch_id = new_batch(database, key_id, ranges, priority)
    assert ingest(database, SETTINGS, price_book(SETTINGS), batch_id)
    return batch_id


def announced(database: Database, batch_id: str | None = None) -> list[tuple[str, int]]:
    """What is announced now: batch, and the number of its range."""
    publisher = FakePublisher()
    announce_ranges(database, SETTINGS, publisher, batch_id)
    ranges = [event for event in publisher.events if isinstance(event, ScoreDue)]
    assert ranges == publisher.events
    return [(event.batch_id, event.first_line // LINES) for event in ranges]


def score_range(database: Database, batch_id: str, number: int) -> None:
    score(database, SETTINGS, price_book(SETTINGS), Routers(SETTINGS), batch_id, number * LINES + 1)


def test_a_large_batch_has_few_ranges_announced_and_one_more_for_each_that_is_done(database: Database) -> None:
    batch_id = ingested(database, new_key(database), 5)
    assert announced(database, batch_id) == [(batch_id, 0), (batch_id, 1), (batch_id, 2)]
    assert announced(database, batch_id) == []
    for number, following in ((1, [3]), (1, []), (0, [4]), (4, []), (3, [])):  # one is done twice
        score_range(database, batch_id, number)
        assert announced(database, batch_id) == [(batch_id, n) for n in following]


def test_a_small_batch_behind_a_large_one_of_its_key_is_scored_next(database: Database) -> None:
    key_id = new_key(database)
    large = ingested(database, key_id, 20)
    assert len(announced(database, large)) == AT_ONCE
    small = ingested(database, key_id, 1)
    assert announced(database, small) == []
    score_range(database, large, 0)
    assert announced(database, large) == [(small, 0)]


def test_a_key_with_many_batches_takes_no_more_places_than_a_key_with_one(database: Database) -> None:
    key_id = new_key(database)
    batches = [ingested(database, key_id, 2) for _ in range(5)]
    assert announced(database) == sorted((batch_id, 0) for batch_id in batches[:AT_ONCE])  # the first of each
    other = ingested(database, new_key(database), 4)
    assert announced(database, other) == [(other, n) for n in range(AT_ONCE)]


def test_a_higher_priority_is_scored_first(database: Database) -> None:
    key_id = new_key(database)
    low, high = ingested(database, key_id, 2, priority=4), ingested(database, key_id, 2, priority=6)
    assert sorted(announced(database)) == sorted([(high, 0), (high, 1), (low, 0)])


def test_what_stands_still_takes_no_place_unless_its_client_paused_it(database: Database) -> None:
    key_id = new_key(database)
    gone, paused = ingested(database, key_id, 2), ingested(database, key_id, 1)
    pause(database, key_id, paused)
    with database.transaction() as session:
        pause_for_models(session, gone, ["gone"], SETTINGS)
    assert announced(database) == [(paused, 0)]


def test_ranges_whose_announcement_was_lost_are_announced_again_by_the_sweep(database: Database) -> None:
    batch_id = ingested(database, new_key(database), 20)
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)  # the ingest that should have announced them died
    first: list[Event] = [ScoreDue(batch_id, 1 + LINES * n) for n in range(AT_ONCE)]
    assert publisher.events == first
    with database.transaction() as session:
        session.execute(text("update score_ranges set announced_at = announced_at - interval '1 hour'"))
    publisher.events.clear()
    sweep(database, SETTINGS, publisher)
    assert set(publisher.events) == set(first)


def test_through_the_queue_a_small_batch_is_planned_long_before_a_large_one_is_scored(database: Database) -> None:
    key_id = new_key(database)
    large, small = new_batch(database, key_id, 20), new_batch(database, key_id, 1)
    publisher = _Watched(database, large, small)
    publisher.publish(IngestDue(large))
    publisher.publish(IngestDue(small))
    work(database, SETTINGS, publisher)
    assert publisher.still_open >= 20 - AT_ONCE - 1
    assert batch_of(database, large).planned_at is not None


class _Watched(FakePublisher):
    """Sees how many ranges of the large batch are open when the plan of the small one is announced. Rings no pump."""

    def __init__(self, database: Database, large: str, small: str) -> None:
        super().__init__()
        self.still_open = 0
        self._database, self._large, self._small = database, large, small

    def publish(self, event: Event) -> None:
        if event == PlanDue(self._small):
            query = text("select count(*) from score_ranges where done_at is null and batch_id = :id")
            with self._database.transaction() as session:
                self.still_open = session.scalar(query, {"id": self._large}) or 0
        if event != DispatchDue():  # nobody is there to answer
            super().publish(event)
