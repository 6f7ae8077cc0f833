"""Topping up a batch: dollars are added to what it may spend.

A batch that has not ended gets a higher limit, goes on if only money held it back, and is cut anew, so that the money
buys upgrades. What the budget ended already stays ended; when the batch has completed, such lines are asked by a
continuation.
"""

from __future__ import annotations

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from routing_service.batches.continuation import MoreMoney, about_to_complete, continue_batch
from routing_service.batches.options import MAX_BUDGET_USD
from routing_service.batches.pausing import BUDGET
from routing_service.batches.repeats import RETRY_WINDOW, earlier_batch, key_was_used, one_at_a_time
from routing_service.batches.view import own_batch
from routing_service.db import Database
from routing_service.errors import ConflictError, InvalidRequestError
from routing_service.events import Publisher
from routing_service.models import Batch, BatchState, Budget, TopUp
from routing_service.pricing import NANO, PriceBook, format_usd, to_nano
from routing_service.settings import Settings


def top_up(
    database: Database,
    settings: Settings,
    prices: PriceBook,
    publisher: Publisher,
    api_key_id: str,
    wish: MoreMoney,
) -> str:
    """Add `wish.budget` to a batch's budget, or create a continuation with it if the batch is completed.

    Returns the id of the batch that has the money. The same request sent twice adds once. Raises NotFoundError for a
    batch that is not the key's own, ConflictError for one that has ended otherwise or waits to be approved,
    InvalidRequestError for no amount (`budget_required`) or one that would lead beyond the largest budget
    (`invalid_budget`).
    """
    if wish.budget is None:
        raise InvalidRequestError("give budget_usd: the dollars to add", code="budget_required", param="budget_usd")
    amount = to_nano(wish.budget)
    with database.transaction() as session:
        one_at_a_time(session, api_key_id, wish)
        batch = own_batch(session, api_key_id, wish.batch_id, lock=True)
        if _added_before(session, wish, amount):
            return batch.id
        earlier = earlier_batch(session, api_key_id, wish)
        if earlier is not None:
            return earlier
        if batch.is_preview:
            raise ConflictError("This is a plan: name its budget when you approve it.", code="plan_not_approved")
        running = batch.state in (BatchState.VALIDATING, BatchState.IN_PROGRESS) and not about_to_complete(batch)
        if running:
            _add(session, batch, wish, amount)
        found = batch.id if running else continue_batch(session, settings, prices, batch, wish)
    if not running:
        publisher.ingest(found)
    elif batch.state is BatchState.IN_PROGRESS:
        publisher.plan(found)
        publisher.dispatch()
    return found


def _added_before(session: Session, wish: MoreMoney, amount: int) -> bool:
    """Whether this very request added its money while the batch ran."""
    query = select(TopUp.amount_nano).where(TopUp.batch_id == wish.batch_id)
    if wish.idempotency_key is not None:
        added = session.scalar(query.where(TopUp.idempotency_key == wish.idempotency_key))
        if added not in (None, amount):
            raise key_was_used(f"which added ${format_usd(added)} to {wish.batch_id}")
        return added is not None
    recent = query.where(
        TopUp.idempotency_key.is_(None), TopUp.amount_nano == amount, TopUp.created_at > func.now() - RETRY_WINDOW
    )
    return wish.is_retry and session.scalar(recent.limit(1)) is not None


def _add(session: Session, batch: Batch, wish: MoreMoney, amount: int) -> None:
    """Raise the limit of a batch whose row is locked."""
    query = select(Budget).where(Budget.batch_id == batch.id).with_for_update(key_share=True)
    budget = session.scalars(query).one()
    if budget.limit_nano + batch.explore_nano + amount > MAX_BUDGET_USD * NANO:
        raise InvalidRequestError(
            f"with that the budget would be more than {MAX_BUDGET_USD} dollars",
            code="invalid_budget",
            param="budget_usd",
        )
    budget.limit_nano += amount
    batch.options = batch.options | {"budget_usd": format_usd(budget.limit_nano + batch.explore_nano)}
    batch.replan_at = 0  # should the announcement be lost: the next answer makes a new cut due
    if batch.paused == BUDGET:
        batch.paused = batch.paused_reason = None
    row = {"batch_id": batch.id, "idempotency_key": wish.idempotency_key, "amount_nano": amount}
    session.execute(insert(TopUp), row)
