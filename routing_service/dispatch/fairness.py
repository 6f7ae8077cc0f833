"""The fair scheduler: which batch a pump claims from next, and which batches it may serve at all.

A higher priority comes first. Between equals it is the API key with the fewest calls in flight, so that a key with
fifty batches gets no more than a key with one; and of that key the batch with the fewest. Where answers come at once,
or a rate holds calls up, hardly any are in flight: then it is whoever was served longest ago.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from routing_service.db import Database


class FairScheduler:
    """Of one pump: it knows what is in flight, and whom it served when."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()
        self._by_batch: Counter[str] = Counter()
        self._served: dict[str, int] = {}  # keys and batches, by the number of the chunk that they had last
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
    "select true from requests where requests.batch_id = batches.id and requests.state = 'scored'{and_}"
    " order by requests.priority, requests.ratio limit 1"
)
_IS_DUE = " and (not_before is null or not_before <= now())"
_RUNNABLE = text(f"""
select id, api_key_id, priority, created_at, ({_WAITING.format(and_=_IS_DUE)}) is not null as due,
       exists (select from requests where requests.batch_id = batches.id and requests.state = 'scored'
               and losses >= 2 {_IS_DUE}) as has_isolated
from batches
where state = 'in_progress' and planned_at is not null and paused is null and expires_at > now()
  and ({_WAITING.format(and_="")}) is not null
""")  # noqa: S608


def runnable_batches(database: Database) -> list[Runnable]:
    """The planned batches in progress that have requests to dispatch, now or later."""
    with database.transaction() as session:
        return [Runnable(*row) for row in session.execute(_RUNNABLE)]
