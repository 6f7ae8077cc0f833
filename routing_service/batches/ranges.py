"""Which ranges are scored next: of each API key only a few are announced at a time.

The queue of score tasks serves whoever came first. Were all ranges of a large batch in it at once, a small batch that
comes after it would wait until the last of them is scored. So a key has `score.ranges_at_once` in the queue, and each
that is done makes room for another: by priority, then the first that is open of every batch before anybody's second.
"""

from __future__ import annotations

from sqlalchemy import text

from routing_service.db import Database
from routing_service.events import Publisher
from routing_service.settings import Settings

# Ranges are announced in the order of their lines, so the first open ones of a batch hold all that are announced.
_ANNOUNCE = text(
    "with open as (select b.api_key_id, b.priority, b.created_at, r.batch_id, r.first_line, r.announced_at, r.place"
    " from batches b cross join lateral (select o.*, row_number() over (order by o.first_line) as place from (select"
    " batch_id, first_line, announced_at from score_ranges where batch_id = b.id and done_at is null"
    " order by first_line limit :most) o) r"
    " where b.state = 'in_progress' and b.planned_at is null and coalesce(b.paused, 'client') = 'client'"
    " and (cast(:batch as text) is null or b.api_key_id = (select api_key_id from batches where id = :batch))),"
    " turns as (select batch_id, first_line, announced_at, row_number() over (partition by api_key_id"
    " order by announced_at is null, priority desc, place, created_at, batch_id) as turn from open),"
    " held as (select s.batch_id, s.first_line from score_ranges s join turns t using (batch_id, first_line)"
    " where t.turn <= :most and t.announced_at is null and s.announced_at is null for update of s skip locked)"
    " update score_ranges s set announced_at = now() from held where s.batch_id = held.batch_id"
    " and s.first_line = held.first_line returning s.batch_id, s.first_line"
)


def announce_ranges(database: Database, settings: Settings, publisher: Publisher, batch_id: str | None = None) -> None:
    """Announce what may be scored next of the key whose batch that is; of all keys where none is named.

    What is announced is marked first: should the message be lost, the sweep announces it again.
    """
    with database.transaction() as session:
        found = session.execute(_ANNOUNCE, {"batch": batch_id, "most": settings.score.ranges_at_once}).all()
    for owner, first_line in sorted((row.batch_id, row.first_line) for row in found):
        publisher.score(owner, first_line)
