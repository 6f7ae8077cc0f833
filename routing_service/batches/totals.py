"""What a batch's requests and attempts add up to, remembered so that a client may poll a large batch.

Adding up a million rows takes seconds. So totals are kept as long as nothing of their batch has moved, and while it
moves they are added up anew only so often that it costs a small share of the time. A batch that has ended is always
shown exactly.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.models import TERMINAL, Batch, Budget, RequestState

KEPT = 1000  # batches

# Only requests that were answered count by model and reason; only finished ones are looked at.
_FINISHED = """
select batch_id, state::text, model, reason::text, count(*) from requests
where batch_id = any(:ids) and state in ('succeeded', 'unaffordable') group by 1, 2, 3, 4
"""
_TOKENS = """
select batch_id, coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(output_tokens), 0),
       coalesce(sum(reasoning_tokens), 0)
from attempts where batch_id = any(:ids) group by batch_id
"""


@dataclass(slots=True)
class Totals:
    by_model: dict[str, int] = field(default_factory=dict)
    by_reason: dict[str, int] = field(default_factory=dict)
    unaffordable: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    totals: Totals
    progress: tuple[object, ...]
    stale_at: float


class TotalsCache:
    """The totals of batches. One a process, used by all its threads."""

    def __init__(self, share: float = 20) -> None:
        """While a batch moves, adding it up may take one part in `share` of the time."""
        self._share = share
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, session: Session, batches: Sequence[tuple[Batch, Budget]]) -> dict[str, Totals]:
        """The totals by batch id. Read the batches first: what is added up is then at least as new as they are."""
        with self._lock:
            found = {batch.id: self._known(batch, budget) for batch, budget in batches}
        missing = [(batch, budget) for batch, budget in batches if found[batch.id] is None]
        if missing:
            started = time.monotonic()
            added = add_up(session, [batch.id for batch, _ in missing])
            took = time.monotonic() - started
            stale_at = started + took + self._share * took
            with self._lock:
                for batch, budget in missing:
                    self._keep(batch.id, _Kept(added[batch.id], _progress(batch, budget), stale_at))
            found |= added
        return {batch_id: totals for batch_id, totals in found.items() if totals is not None}

    def _known(self, batch: Batch, budget: Budget) -> Totals | None:
        kept = self._kept.get(batch.id)
        if kept is None:
            return None
        unchanged = kept.progress == _progress(batch, budget)
        if unchanged or (batch.state not in TERMINAL and time.monotonic() < kept.stale_at):
            self._kept.move_to_end(batch.id)
            return kept.totals
        return None

    def _keep(self, batch_id: str, kept: _Kept) -> None:
        self._kept[batch_id] = kept
        self._kept.move_to_end(batch_id)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


def _progress(batch: Batch, budget: Budget) -> tuple[object, ...]:
    """Changes whenever a request ends or an attempt is closed."""
    money = (budget.reserved_nano, budget.settled_nano, budget.overrun_nano)
    return (batch.state, batch.succeeded, batch.failed, *money)


def add_up(session: Session, ids: list[str]) -> dict[str, Totals]:
    """Add up from the rows."""
    totals = {batch_id: Totals() for batch_id in ids}
    for batch_id, state, model, reason, count in session.execute(text(_FINISHED), {"ids": ids}):
        of = totals[batch_id]
        if state == RequestState.UNAFFORDABLE:
            of.unaffordable += count
        else:
            of.by_model[model] = of.by_model.get(model, 0) + count
            of.by_reason[reason] = of.by_reason.get(reason, 0) + count
    for batch_id, *tokens in session.execute(text(_TOKENS), {"ids": ids}):
        of = totals[batch_id]
        of.input_tokens, of.cached_tokens, of.output_tokens, of.reasoning_tokens = (int(n) for n in tokens)
    return totals
