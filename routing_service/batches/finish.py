"""Finishing: when nothing of a batch is left to do, it gets its files and its last state.

Also where cancelling and expiry take hold: what was not sent yet ends at once, what is in flight is settled first.
"""

from __future__ import annotations

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from routing_service.db import Database, try_lock
from routing_service.files import new_file_id
from routing_service.models import Batch, BatchState, File, FilePurpose, RequestState
from routing_service.results import file_bytes

_ENDED_AT = {
    BatchState.COMPLETED: "completed_at",
    BatchState.EXPIRED: "expired_at",
    BatchState.CANCELLED: "cancelled_at",
}
_CLOSED = {
    RequestState.CANCELLED: ("batch_cancelled", "This request was not executed because the batch was cancelled."),
    RequestState.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
}


def finish(database: Database, batch_id: str) -> bool:
    """Finish the batch if it can be finished now. Safe to run at any time, any number of times.

    Returns True if the batch reached its last state in this call.
    """
    with database.transaction() as session:
        end = _close(session, batch_id)
    if end is None:
        return False
    with database.transaction() as session:
        return try_lock(session, f"finish:{batch_id}") and _finalize(session, batch_id, end)


def _close(session: Session, batch_id: str) -> BatchState | None:
    """End what was not sent, if the batch is cancelled or expired; then the state it ends in, or None for not yet."""
    batch = session.get(Batch, batch_id, with_for_update={"key_share": True})
    if batch is None or batch.state in (*_ENDED_AT, BatchState.FAILED):
        return None
    done = batch.total > 0 and batch.succeeded + batch.failed == batch.total
    if batch.state is BatchState.CANCELLING:
        end = BatchState.CANCELLED
        _end_unsent(session, batch, RequestState.CANCELLED)
    elif done or batch.state is BatchState.FINALIZING:
        end = BatchState.COMPLETED
    elif session.scalar(text("select cast(:at as timestamptz) <= now()"), {"at": batch.expires_at}):
        end = BatchState.EXPIRED
        _end_unsent(session, batch, RequestState.EXPIRED)
    else:
        return None
    if batch.succeeded + batch.failed < batch.total:
        return None
    if batch.state is BatchState.IN_PROGRESS and end is BatchState.COMPLETED:
        batch.state = BatchState.FINALIZING
        batch.finalizing_at = session.scalar(text("select now()"))
    return end


def _end_unsent(session: Session, batch: Batch, state: RequestState) -> None:
    code, message = _CLOSED[state]
    ended = session.execute(
        text(
            "update requests set state = cast(:state as request_state), finished_at = now(), model = null,"
            " reason = null, error_code = :code, error_message = :message"
            " where batch_id = :id and state in ('queued', 'scored')"
        ),
        {"state": state, "code": code, "message": message, "id": batch.id},
    )
    batch.failed += ended.rowcount  # type: ignore[attr-defined]
    batch.floor_nano = 0
    session.flush()


def _finalize(session: Session, batch_id: str, end: BatchState) -> bool:
    """Make the files and write the last state, unless somebody else did."""
    batch = session.get_one(Batch, batch_id, with_for_update={"key_share": True})
    if batch.state in (*_ENDED_AT, BatchState.FAILED):
        return False
    output = _make_file(session, batch, errors=False)
    errors = _make_file(session, batch, errors=True)
    session.execute(
        update(Batch)
        .where(Batch.id == batch_id)
        .values({"state": end, "output_file_id": output, "error_file_id": errors, _ENDED_AT[end]: text("now()")})
    )
    return True


def _make_file(session: Session, batch: Batch, *, errors: bool) -> str | None:
    """The output or error file of a batch: a row only, its lines are rendered from the requests."""
    lines, size = file_bytes(session, batch.id, errors=errors)
    if lines == 0:
        return None
    file = File(
        id=new_file_id(),
        api_key_id=batch.api_key_id,
        purpose=FilePurpose.BATCH_OUTPUT,
        filename=f"{batch.id}_{'error' if errors else 'output'}.jsonl",
        bytes=size,
        batch_id=batch.id,
        errors=errors,
    )
    session.add(file)
    session.flush()
    return file.id
