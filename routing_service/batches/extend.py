"""More of a batch: topping up its budget, and retrying what it left unanswered by a continuation.

A batch that is topped up before it has ended gets a higher limit, goes on if only money held it back, and is cut anew,
so that the money buys upgrades. What the budget ended already stays ended; when the batch has completed, a continuation
asks such lines.

A continuation is another batch with money of its own. It is created here, `validating` and without lines; its ingest
copies them from the first batch instead of reading a file, so a crash in between costs nothing. What is answered is
never asked again, and a batch has one continuation at most; only one that failed its validation may be followed by
another. A continuation that is incomplete itself is continued in turn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import orjson
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from routing_service.batches.create import (
    RETRY_WINDOW,
    CreateBatch,
    add,
    batch_row,
    candidates_of,
    earlier_batch,
    key_was_used,
    one_at_a_time,
    window_of,
)
from routing_service.batches.options import MAX_BUDGET_USD, BatchOptions
from routing_service.batches.pauses import BUDGET
from routing_service.batches.router_choice import asked_router, asked_version
from routing_service.batches.view import continuations, own_batch
from routing_service.db import Database
from routing_service.errors import ConflictError, InvalidRequestError
from routing_service.events import DispatchDue, IngestDue, PlanDue, Publisher
from routing_service.models import Batch, BatchState, Budget, TopUp
from routing_service.money.pricing import NANO, PriceBook, format_usd, to_nano, to_usd
from routing_service.settings import Settings


@dataclass(frozen=True, slots=True)
class MoreMoney:
    """A client's wish to go on with a batch. `budget`: dollars. `is_retry`: as in CreateBatch."""

    action: Literal["top_up", "retry"]
    batch_id: str
    budget: Decimal | None
    idempotency_key: str | None = None
    is_retry: bool = False

    def fingerprint(self) -> bytes:
        """Equal for equal wishes, however their dollars are written; unlike that of any create."""
        dollars = None if self.budget is None else str(self.budget.normalize())
        return hashlib.sha256(orjson.dumps([self.action, self.batch_id, dollars])).digest()


def retry(
    database: Database,
    settings: Settings,
    prices: PriceBook,
    publisher: Publisher,
    api_key_id: str,
    wish: MoreMoney,
) -> str:
    """Create the continuation of a completed batch, or find the one that this very request made before.

    Its budget is the one asked for, or else what the first batch did not spend. Returns its id. Raises NotFoundError
    for a batch that is not the key's own, ConflictError for one that cannot be continued, InvalidRequestError
    (`budget_required`) where no money is left and none was given.
    """
    with database.transaction() as session:
        one_at_a_time(session, api_key_id, wish)
        first = own_batch(session, api_key_id, wish.batch_id, lock=True)
        earlier = earlier_batch(session, api_key_id, wish)
        if earlier is not None:
            return earlier
        batch_id = continue_batch(session, settings, prices, first, wish)
    publisher.publish(IngestDue(batch_id))
    return batch_id


def continue_batch(session: Session, settings: Settings, prices: PriceBook, first: Batch, wish: MoreMoney) -> str:
    """Create the continuation of a batch whose row is locked. Returns its id, to be announced after the commit."""
    _check(session, first, wish)
    assert first.input_file_id is not None
    budget = _unspent(session, first) if wish.budget is None else wish.budget
    asked_for = first.options.get("router") or first.router  # `auto` is decided anew, for these lines
    options = BatchOptions.model_validate(first.options | {"router": asked_for, "budget_usd": budget})
    router = asked_router(options, settings)
    asked = CreateBatch(
        input_file_id=first.input_file_id,
        endpoint=first.endpoint,
        completion_window=first.completion_window,
        metadata=first.client_metadata,
        idempotency_key=wish.idempotency_key,
    )
    batch = batch_row(asked, options, router, candidates_of(settings), prices)
    batch.router_version_id = asked_version(session, router)
    batch.api_key_id, batch.input_file_id = first.api_key_id, first.input_file_id
    batch.continues, batch.fingerprint = first.id, wish.fingerprint()
    add(session, batch, window_of(asked.completion_window), options, settings)
    return batch.id


def _check(session: Session, first: Batch, wish: MoreMoney) -> None:
    """ConflictError unless the batch is completed, with lines to ask, and nobody asks them yet."""
    verb = wish.action.replace("_", " ")
    if about_to_complete(first):
        raise ConflictError(f"Batch {first.id} is about to complete; try again in a moment.", code="batch_finalizing")
    if first.state in (BatchState.VALIDATING, BatchState.IN_PROGRESS):
        raise ConflictError(
            f"Cannot {verb} a batch with status '{first.state}': its lines are still being asked. To give it more"
            " money now, top it up.",
            code="batch_not_ended",
        )
    if first.state is not BatchState.COMPLETED:
        raise ConflictError(
            f"Cannot {verb} a batch with status '{first.state}'. Submit its lines anew.", code="batch_not_continuable"
        )
    if not first.failed:
        raise ConflictError(f"Every line of batch {first.id} is answered.", code="batch_answered")
    if follower := continuations(session, [first.id]).get(first.id):
        raise ConflictError(f"Batch {first.id} is continued by {follower} already.", code="batch_continued")


def about_to_complete(batch: Batch) -> bool:
    """Nothing of it is left to ask, but its files are not made yet."""
    done = batch.total > 0 and batch.succeeded + batch.failed >= batch.total - batch.duplicates
    return batch.state is BatchState.FINALIZING or (batch.state is BatchState.IN_PROGRESS and done)


def _unspent(session: Session, first: Batch) -> Decimal:
    """What an ended batch left of its budget, in dollars."""
    budget = session.scalars(select(Budget).where(Budget.batch_id == first.id)).one()
    left = budget.limit_nano - budget.settled_nano - budget.overrun_nano
    if left <= 0:
        raise InvalidRequestError(
            f"Batch {first.id} has spent its budget: give budget_usd, in dollars, for what it left unanswered.",
            code="budget_required",
            param="budget_usd",
        )
    return to_usd(left)


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
        extended = batch.id if running else continue_batch(session, settings, prices, batch, wish)
    if not running:
        publisher.publish(IngestDue(extended))
    elif batch.state is BatchState.IN_PROGRESS:
        publisher.publish(PlanDue(extended))
        publisher.publish(DispatchDue())
    return extended


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
