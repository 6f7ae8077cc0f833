"""Cancelling a batch: from now on nothing of it is sent; what is in flight is settled before it ends."""

from __future__ import annotations

from sqlalchemy import func, select

from routing_service.batches.view import own_batch
from routing_service.db import Database
from routing_service.errors import ConflictError
from routing_service.events import Publisher
from routing_service.models import BatchState


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
    publisher.finish(batch_id)
