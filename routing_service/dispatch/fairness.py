"""Whose turn it is: the batch that a pump claims from next.

A higher priority comes first. Between equals it is the API key with the fewest calls in flight, so that a key with
fifty batches gets no more than a key with one; and of that key the batch with the fewest. Where answers come at once,
or a rate holds calls up, hardly any are in flight: then it is whoever was served longest ago.

Which batches a pump may serve now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from routing_service.db import Database


class FairScheduler:
    """One pump's: what it has in flight, and whom it served when."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()
        self._by_batch: Counter[str] = Counter()
        self._served: dict[str, int] = {}  # keys and batches, by the number of the claim chunk that they had last
        self._chunks = 0

    def next(self, batches: Iterable[Runnable]) -> Runnable:
        return min(batches, key=self._place)

    def _place(self, batch: Runnable) -> tuple[object, ...]:
        own, key = batch.batch_id, batch.api_key_id
        of_key = (self._by_key[key], self._served.get(key, 0))
        return (-batch.priority, *of_key, self._by_batch[own], self._served.get(own, 0), batch.created_at)

    def served(self, batch: Runnable) -> None:
        """It was its turn, and it had something to send."""
        self._chunks += 1
        self._served[batch.batch_id] = self._served[batch.api_key_id] = self._chunks

    def sent(self, batch: Runnable) -> None:
        self._by_key[batch.api_key_id] += 1
        self._by_batch[batch.batch_id] += 1

    def ended(self, batch: Runnable) -> None:
        self._by_key[batch.api_key_id] -= 1
        self._by_batch[batch.batch_id] -= 1


@dataclass(frozen=True, slots=True)
class Runnable:
    """A planned batch with requests to dispatch. `due`: at least one of them may be sent now; `has_isolated`: at least
    one of those only by a pump that has nothing else in flight."""

    batch_id: str
    api_key_id: str
    priority: int
    created_at: datetime
    due: bool
    has_isolated: bool = False


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
    " and (q.not_before is null or q.not_before <= now())) as has_isolated from batches b"
    " where b.state = 'in_progress' and b.planned_at is not null and b.paused is null and b.expires_at > now()"
    f" and ({_WAITING.format(and_='')}) is not null"
)


def runnable_batches(database: Database) -> list[Runnable]:
    with database.transaction() as session:
        return [Runnable(*row) for row in session.execute(_RUNNABLE)]
