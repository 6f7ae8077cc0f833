"""Which batches a pump may serve now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from routing_service.db import Database


@dataclass(frozen=True, slots=True)
class Runnable:
    """A planned batch with requests to dispatch; `due`: at least one of them may be sent now; `lonely`: at least one of
    those only by a pump that has nothing else in flight."""

    batch_id: str
    api_key_id: str
    priority: int
    created_at: datetime
    due: bool
    lonely: bool = False


# Asked for by the order of the index, one row at a time: by `exists` the planner may read the whole table, if its
# statistics are of a time when most of it waited.
_WAITING = (
    "select true from requests q where q.batch_id = b.id and q.state = 'scored'{and_}"
    " order by q.priority, q.ratio limit 1"
)
_RUNNABLE = text(
    "select b.id, b.api_key_id, b.priority, b.created_at,"  # noqa: S608
    f" ({_WAITING.format(and_=' and (q.not_before is null or q.not_before <= now())')}) is not null as due,"
    " exists (select from requests q where q.batch_id = b.id and q.state = 'scored' and q.losses >= 2"
    " and (q.not_before is null or q.not_before <= now())) as lonely from batches b"
    " where b.state = 'in_progress' and b.planned_at is not null and b.paused is null and b.expires_at > now()"
    f" and ({_WAITING.format(and_='')}) is not null"
)


def runnable_batches(database: Database) -> list[Runnable]:
    with database.transaction() as session:
        return [Runnable(*row) for row in session.execute(_RUNNABLE)]
