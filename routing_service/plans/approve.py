"""Approving a preview: it becomes an ordinary batch under a budget, planned from the scores that it was shown with.

It is refused where what the preview rests on has changed: the client would get another plan than the one it saw. The
cut is made again by the plan task, by the same rule from the same stored scores; so it may have any budget.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import func, select

from routing_service.batches.create import window_of
from routing_service.batches.exploration_budget import set_aside
from routing_service.batches.options import batch_budget, too_small
from routing_service.batches.pauses import APPROVAL
from routing_service.batches.view import own_batch
from routing_service.db import Database
from routing_service.errors import ConflictError, InvalidRequestError
from routing_service.events import PlanDue, Publisher
from routing_service.models import Batch, BatchState, Budget
from routing_service.money.pricing import PriceBook, format_usd, to_nano
from routing_service.plans.preview_basis import changes
from routing_service.settings import Settings


def approve(
    database: Database,
    settings: Settings,
    prices: PriceBook,
    publisher: Publisher,
    api_key_id: str,
    batch_id: str,
    asked: Decimal | None,
) -> None:
    """Let a preview run under a budget of `asked` dollars; None: of the preview's own, else of the configured default.

    Approving it again by the same budget, or by none, changes nothing. Its window starts anew.

    Raises NotFoundError for a batch that is not the key's own; InvalidRequestError for a budget that is none or too
    small (`budget_too_small` names the least); ConflictError: `not_a_plan`, `plan_not_ready`, `plan_approved` with
    another budget, `plan_ended`, `plan_changed` naming what has.
    """
    with database.transaction() as session:
        batch = own_batch(session, api_key_id, batch_id, lock=True)
        budget = session.scalars(select(Budget).where(Budget.batch_id == batch_id).with_for_update()).one()
        if _is_approved(batch, budget, asked):
            return
        now = session.scalars(select(func.clock_timestamp())).one()  # it may have waited for the lock
        _check(batch, now, settings, prices)
        limit = asked if asked is not None else _own_budget(batch, budget, settings)
        _run(batch, budget, limit, now, settings)
    publisher.publish(PlanDue(batch_id))


def _is_approved(batch: Batch, budget: Budget, asked: Decimal | None) -> bool:
    if batch.preview is None:
        raise ConflictError(f"Batch '{batch.id}' is no plan that waits to be approved.", code="not_a_plan")
    if batch.approved_at is None:
        return False
    if asked is not None and asked != Decimal(batch.options["budget_usd"]):
        was = format_usd(to_nano(Decimal(batch.options["budget_usd"])))
        raise ConflictError(f"This plan was approved already, with a budget of ${was}.", code="plan_approved")
    return True


def _check(batch: Batch, now: datetime, settings: Settings, prices: PriceBook) -> None:
    is_open = batch.state in (BatchState.VALIDATING, BatchState.IN_PROGRESS)
    if not is_open or batch.expires_at <= now:  # its lines may be ending already
        state = BatchState.EXPIRED if is_open else batch.state
        raise ConflictError(f"Cannot approve a plan with status '{state}'.", code="plan_ended")
    if not batch.preview:
        raise ConflictError("This plan is still being made; ask for it until it is ready.", code="plan_not_ready")
    changed = changes(batch, batch.preview["basis"], settings, prices)
    if changed:
        message = f"This plan no longer holds; changed since it was made: {'; '.join(changed)}. Make a new one."
        raise ConflictError(message, code="plan_changed")


def _own_budget(batch: Batch, budget: Budget, settings: Settings) -> Decimal:
    whole_nano = budget.limit_nano + batch.explore_nano
    return batch_budget(Decimal(format_usd(whole_nano)) if whole_nano else None, settings)


def _run(batch: Batch, budget: Budget, limit: Decimal, now: datetime, settings: Settings) -> None:
    assert batch.preview is not None
    least = batch.preview["least_nano"]
    if to_nano(limit) < least:
        raise InvalidRequestError(too_small(to_nano(limit), least), code="budget_too_small", param="budget_usd")
    batch.explore_nano = set_aside(to_nano(limit), batch.options, batch.candidates, settings)
    budget.limit_nano = to_nano(limit) - batch.explore_nano
    batch.options = batch.options | {"budget_usd": str(limit)}
    batch.approved_at = batch.announced_at = now
    batch.expires_at = now + window_of(batch.completion_window)
    batch.planned_at = None
    if batch.paused == APPROVAL:
        batch.paused = batch.paused_reason = None
