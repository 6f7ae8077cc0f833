"""Finishing: when nothing of a batch is left to do, it gets its files and its last state.

Also where cancelling and expiry take hold: what was not sent yet ends at once, what is in flight is settled first.

Duplicates are lines of a batch that ask what an earlier line asks. They are never asked; they end as that line ended.
Nothing of them moves until the last line that is asked has ended. So whatever happens to those before, a retry, a lost
worker, a cancellation, their duplicates cannot differ from them. An answer is not copied: it is read from the line that
has it (`openai_format.output`).
"""

from __future__ import annotations

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from routing_service.db import Database, try_lock
from routing_service.models import TERMINAL, Batch, BatchPurpose, BatchState, File, FilePurpose, RequestState
from routing_service.openai_format.files import new_file_id
from routing_service.openai_format.output import file_bytes

LINES_AT_ONCE = 10_000

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
    _end_unsent(database, batch_id)
    end_duplicates(database, batch_id)
    with database.transaction() as session:
        end = _close(session, batch_id)
    if end is None:
        return False
    with database.transaction() as session:
        return try_lock(session, f"finish:{batch_id}") and _finalize(session, batch_id, end)


def _lock(session: Session, batch_id: str) -> tuple[Batch, BatchState] | None:
    """The batch, locked, and the state in which it is to end. None for one that has ended or goes on."""
    batch = session.get(Batch, batch_id, with_for_update={"key_share": True})
    if batch is None or batch.state in (*_ENDED_AT, BatchState.FAILED):
        return None
    if batch.state is BatchState.CANCELLING:
        return batch, BatchState.CANCELLED
    done = batch.total > 0 and batch.succeeded + batch.failed >= batch.total - batch.duplicates
    expired = session.scalar(text("select cast(:at as timestamptz) <= now()"), {"at": batch.expires_at})
    if batch.state is BatchState.FINALIZING or (done and not (expired and _cut_short(session, batch_id))):
        return batch, BatchState.COMPLETED
    return (batch, BatchState.EXPIRED) if expired else None


def _cut_short(session: Session, batch_id: str) -> bool:
    query = text("select exists (select from requests where batch_id = :id and state = 'expired')")
    return bool(session.scalar(query, {"id": batch_id}))


def _end_unsent(database: Database, batch_id: str) -> None:
    """End what was not sent, if the batch is cancelled or expired.

    In many small transactions: whoever waits for the batch's lock, a pump that serves others as well, waits briefly.
    """
    after, total = 0, 1
    while after < total:
        with database.transaction() as session:
            locked = _lock(session, batch_id)
            if locked is None or locked[1] is BatchState.COMPLETED:
                return
            batch, end = locked
            total = batch.total
            _end_lines(session, batch, RequestState(end), after)
        after += LINES_AT_ONCE


def _end_lines(session: Session, batch: Batch, state: RequestState, after: int) -> None:
    code, message = _CLOSED[state]
    ended, floor_nano = session.execute(
        text(
            "with ended as (update requests set state = cast(:state as request_state), finished_at = now(),"
            " model = null, reason = null, error_code = :code, error_message = :message where batch_id = :id"
            " and line > :after and line <= :to and twin_of is null and state in ('queued', 'scored')"
            " returning floor_nano)"
            " select count(*), coalesce(sum(floor_nano), 0) from ended"
        ),
        {
            "state": state,
            "code": code,
            "message": message,
            "id": batch.id,
            "after": after,
            "to": after + LINES_AT_ONCE,
        },
    ).one()
    batch.failed += ended
    batch.floor_nano -= int(floor_nano)


def _close(session: Session, batch_id: str) -> BatchState | None:
    """The state in which the batch ends, if nothing of it is in flight or unsent; None for not yet."""
    locked = _lock(session, batch_id)
    if locked is None:
        return None
    batch, end = locked
    if batch.succeeded + batch.failed < batch.total:
        return None
    if batch.state is BatchState.IN_PROGRESS and end is BatchState.COMPLETED:
        batch.state = BatchState.FINALIZING
        batch.finalizing_at = session.scalar(text("select now()"))
    return end


def _finalize(session: Session, batch_id: str, end: BatchState) -> bool:
    """Make the files and write the last state, unless somebody else did."""
    batch = session.get_one(Batch, batch_id, with_for_update={"key_share": True})
    if batch.state in (*_ENDED_AT, BatchState.FAILED):
        return False
    if batch.succeeded + batch.failed < batch.total:  # it expired while its file was read, and has got requests since
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
    """The output or error file of a batch: a row only, its lines are rendered from the requests. A companion has none:
    a client would find it among its own."""
    if batch.purpose is not BatchPurpose.CLIENT:
        return None
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


def end_duplicates(database: Database, batch_id: str) -> None:
    """End the duplicates of a batch of which every line that is asked has ended. Safe to run at any time.

    In many small transactions: a prompt may have a million duplicates, and others wait for the batch's lock.
    """
    after, total = 0, 1
    while after < total:
        with database.transaction() as session:
            batch = session.get(Batch, batch_id, with_for_update={"key_share": True})
            if batch is None or not _only_duplicates_are_open(batch):
                return
            total = batch.total
            _end_duplicates_after(session, batch, after)
        after += LINES_AT_ONCE


def _only_duplicates_are_open(batch: Batch) -> bool:
    ended = batch.succeeded + batch.failed
    return batch.state not in TERMINAL and batch.total - batch.duplicates <= ended < batch.total


_END_DUPLICATES = text("""
with ended as (
    update requests duplicate set state = asked.state, model = asked.model, status_code = asked.status_code,
           request_id = asked.request_id, error_code = asked.error_code, error_message = asked.error_message,
           finished_at = now(),
           reason = case when asked.state in ('succeeded', 'failed') then 'duplicate' else asked.reason end
    from requests asked
    where duplicate.batch_id = :id and duplicate.line > :after and duplicate.line <= :to
      and duplicate.state = 'queued' and duplicate.twin_of is not null
      and asked.batch_id = :id and asked.line = duplicate.twin_of and asked.finished_at is not null
    returning duplicate.state = 'succeeded' as answered, asked.cost_nano
)
select count(*) filter (where answered), count(*) filter (where not answered),
       coalesce(sum(cost_nano) filter (where answered), 0)::bigint from ended
""")


def _end_duplicates_after(session: Session, batch: Batch, after: int) -> None:
    """End those of the next LINES_AT_ONCE lines."""
    values = {"id": batch.id, "after": after, "to": after + LINES_AT_ONCE}
    answered, failed, saved_nano = session.execute(_END_DUPLICATES, values).one()
    batch.succeeded += answered
    batch.failed += failed
    batch.duplicates_saved_nano += saved_nano
