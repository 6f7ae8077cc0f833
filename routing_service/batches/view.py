"""How a client sees its batches: OpenAI's batch object, and what routing adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from routing_service.batches.exploration import Exploration, described, explorations, money
from routing_service.batches.totals import Totals, TotalsCache
from routing_service.errors import NotFoundError
from routing_service.models import Batch, BatchPurpose, BatchState, Budget
from routing_service.pricing import format_usd

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
    found = session.scalars(query.order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit + 1)).all()
    return _objects(session, cache, found[:limit]), len(found) > limit


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
