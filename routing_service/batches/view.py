"""How a client sees its batches: OpenAI's batch object, and what routing adds to it.

Adding up the requests and attempts of a million rows takes seconds. So a batch's totals are cached as long as nothing
of it has moved, and while it moves they are added up anew only so often that it costs a small share of the time. A
batch that has ended is always shown exactly.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select, text, tuple_
from sqlalchemy.orm import Session

from routing_service.batches.exploration_budget import Exploration, described, explorations, money
from routing_service.errors import NotFoundError
from routing_service.models import TERMINAL, Batch, BatchPurpose, BatchState, Budget, RequestState
from routing_service.money.pricing import format_usd

_TIMES = (
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)

_PAUSABLE = (BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.EXPIRED)  # an expired one says why it waited


def own_batch(session: Session, api_key_id: str, batch_id: str, *, lock: bool = False) -> Batch:
    """The key's own batch, locked if it is to change; NotFoundError if it is another's, or a companion."""
    query = select(Batch).where(Batch.id == batch_id, *_of_client(api_key_id))
    if lock:
        query = query.with_for_update(key_share=True)
    batch = session.scalar(query)
    if batch is None:
        raise NotFoundError(f"No batch found with id '{batch_id}'.", param="id")
    return batch


def _of_client(api_key_id: str) -> tuple[ColumnElement[bool], ...]:
    """What a client knows of."""
    return Batch.api_key_id == api_key_id, Batch.purpose == BatchPurpose.CLIENT


def batch_object(session: Session, cache: TotalsCache, api_key_id: str, batch_id: str) -> dict[str, Any]:
    """The batch object of one batch."""
    return _objects(session, cache, [own_batch(session, api_key_id, batch_id)])[0]


def list_batches(
    session: Session, cache: TotalsCache, api_key_id: str, *, limit: int, after: str | None
) -> tuple[list[dict[str, Any]], bool]:
    """A page of batch objects, newest first, and whether there are more."""
    query = select(Batch).where(*_of_client(api_key_id))
    if after is not None:
        last = own_batch(session, api_key_id, after)
        query = query.where(tuple_(Batch.created_at, Batch.id) < tuple_(last.created_at, last.id))
    batches = session.scalars(query.order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit + 1)).all()
    return _objects(session, cache, batches[:limit]), len(batches) > limit


def _objects(session: Session, cache: TotalsCache, batches: Sequence[Batch]) -> list[dict[str, Any]]:
    ids = [batch.id for batch in batches]
    budgets = {b.batch_id: b for b in session.scalars(select(Budget).where(Budget.batch_id.in_(ids)))}
    totals = cache.of(session, [(batch, budgets[batch.id]) for batch in batches])
    followers, explored = continuations(session, ids), explorations(session, ids)
    return [
        _object(batch, budgets[batch.id], totals[batch.id], followers.get(batch.id), explored.get(batch.id))
        for batch in batches
    ]


def continuations(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """By batch, the batch that continues it, where there is one that has not failed its validation."""
    query = select(Batch.continues, Batch.id).where(Batch.continues.in_(ids), Batch.state != BatchState.FAILED)
    return {first: follower for first, follower in session.execute(query) if first is not None}


def _object(
    batch: Batch, budget: Budget, totals: Totals, follower: str | None, exploration: Exploration | None
) -> dict[str, Any]:
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": _errors(batch),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.state,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        **{name: _seconds(getattr(batch, name)) for name in _TIMES},
        "request_counts": {"total": batch.total, "completed": batch.succeeded, "failed": batch.failed},
        "usage": {
            "input_tokens": totals.input_tokens,
            "input_tokens_details": {"cached_tokens": totals.cached_tokens},
            "output_tokens": totals.output_tokens,
            "output_tokens_details": {"reasoning_tokens": totals.reasoning_tokens},
            "total_tokens": totals.input_tokens + totals.output_tokens,
        },
        "metadata": batch.client_metadata,
        "routing": _routing(batch, totals, follower)
        | money(batch, budget, exploration)
        | described(batch, exploration),
    }


def _errors(batch: Batch) -> dict[str, Any] | None:
    """Validation errors, as many as are listed; `routing.error_count` counts them all."""
    if batch.errors is None:
        return None
    return {"object": "list", "data": batch.errors}


def _routing(batch: Batch, totals: Totals, follower: str | None) -> dict[str, Any]:
    expected = batch.expected_cost_nano
    stands_still = batch.state in _PAUSABLE
    return {
        "mode": batch.options.get("mode"),
        "models": totals.by_model,
        "reasons": totals.by_reason,
        "duplicates": {"count": batch.duplicates, "saved_usd": format_usd(batch.duplicates_saved_nano)},
        "cached": {"count": totals.by_reason.get("cached", 0), "saved_usd": format_usd(batch.cached_saved_nano)},
        "expected_gain": batch.expected_gain,
        "expected_cost_usd": None if expected is None else format_usd(expected),
        "router": batch.router,
        "router_version": batch.router_version_id,
        "shadow_price": batch.shadow_price,
        "unscored": batch.unscored,
        "unscored_reason": batch.unscored_reason,
        "error_count": batch.error_count,
        "incomplete": batch.state is BatchState.COMPLETED and totals.unaffordable > 0,
        "paused": batch.paused if stands_still else None,
        "paused_reason": batch.paused_reason if stands_still else None,
        "continues": batch.continues,
        "continued_by": follower,
        "plan": plan_state(batch),
    }


def plan_state(batch: Batch) -> str | None:
    """How far a batch is that was made to show its plan: `pending`, `ready` or `approved`. None for any other."""
    if batch.preview is None:
        return None
    if batch.approved_at is not None:
        return "approved"
    return "ready" if batch.preview else "pending"


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


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
            known = {batch.id: self._known(batch, budget) for batch, budget in batches}
        missing = [(batch, budget) for batch, budget in batches if known[batch.id] is None]
        if missing:
            started = time.monotonic()
            added = add_up(session, [batch.id for batch, _ in missing])
            took = time.monotonic() - started
            stale_at = started + took + self._share * took
            with self._lock:
                for batch, budget in missing:
                    self._keep(batch.id, _Kept(added[batch.id], _progress(batch, budget), stale_at))
            known |= added
        return {batch_id: totals for batch_id, totals in known.items() if totals is not None}

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
