"""Pausing, resuming and cancelling a batch at its client's wish.

From a pause on nothing more of the batch is sent, until it is resumed; what is in flight comes back and is settled. A
batch may be paused before it is dispatched: it is validated, scored and planned, and then waits. Its window runs on; it
expires, and may be cancelled, like any other. The client's wish takes the place of other causes: more money does not
start a batch that its client paused. When it is resumed, a cause that still holds is found by the next claim.

Of a cancelled batch nothing more is sent either; it ends when what is in flight is settled.
"""

from __future__ import annotations

from sqlalchemy import func, select

from routing_service.batches.pauses import CLIENT
from routing_service.batches.view import own_batch
from routing_service.db import Database
from routing_service.errors import ConflictError
from routing_service.events import DispatchDue, FinishDue, Publisher
from routing_service.models import Batch, BatchState

_OPEN = (BatchState.VALIDATING, BatchState.IN_PROGRESS)


def pause(database: Database, api_key_id: str, batch_id: str) -> None:
    """Pause a batch. One that its client has paused already stays so.

    Raises NotFoundError for a batch that is not the key's own; ConflictError for one that is ending or has ended
    (`batch_not_pausable`), or is a plan that waits to be approved (`plan_not_approved`).
    """
    with database.transaction() as session:
        batch = own_batch(session, api_key_id, batch_id, lock=True)
        _check_open(batch, "pause", "batch_not_pausable")
        batch.paused, batch.paused_reason = CLIENT, "Its client paused it."
        batch.paused_needs_nano = None


def resume(database: Database, publisher: Publisher, api_key_id: str, batch_id: str) -> None:
    """Let a batch go on that its client paused. One that is not paused goes on as it does.

    Raises NotFoundError for a batch that is not the key's own; ConflictError for one that is ending or has ended
    (`batch_not_resumable`), is a plan that waits to be approved (`plan_not_approved`), or stands still for another
    cause, which is named (`not_paused_by_client`).
    """
    with database.transaction() as session:
        batch = own_batch(session, api_key_id, batch_id, lock=True)
        _check_open(batch, "resume", "batch_not_resumable")
        if batch.paused not in (None, CLIENT):
            message = f"Its client did not pause this batch; it is paused: {batch.paused}. {batch.paused_reason}"
            raise ConflictError(message, code="not_paused_by_client")
        batch.paused = batch.paused_reason = None
    publisher.publish(DispatchDue())


def _check_open(batch: Batch, wish: str, code: str) -> None:
    if batch.state not in _OPEN:
        raise ConflictError(f"Cannot {wish} a batch with status '{batch.state}'.", code=code)
    if batch.is_preview:
        raise ConflictError("This is a plan: nothing of it is sent before you approve it.", code="plan_not_approved")


def cancel(database: Database, publisher: Publisher, api_key_id: str, batch_id: str) -> None:
    """Ask for a batch to be cancelled. One that is being cancelled stays so; one that has ended is a ConflictError."""
    with database.transaction() as session:
        batch = own_batch(session, api_key_id, batch_id, lock=True)
        if batch.state is BatchState.CANCELLING:
            return
        if batch.state not in (BatchState.VALIDATING, BatchState.IN_PROGRESS):
            raise ConflictError(f"Cannot cancel a batch with status '{batch.state}'.", code="batch_not_cancellable")
        batch.state = BatchState.CANCELLING
        batch.cancelling_at = session.scalar(select(func.now()))
    publisher.publish(FinishDue(batch_id))
