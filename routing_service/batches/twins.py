"""Twins: lines of a batch that ask what an earlier line asks. They are never asked; they end as that line ended.

Nothing of them moves until the last line that is asked has ended. So whatever happens to those before, a retry, a lost
worker, a cancellation, their twins cannot differ from them. An answer is not copied: it is read from the line that has
it (`results`).
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.models import TERMINAL, Batch

LINES_AT_ONCE = 10_000

_END = text(
    "with ended as (update requests t set state = f.state, model = f.model, status_code = f.status_code,"
    " request_id = f.request_id, error_code = f.error_code, error_message = f.error_message, finished_at = now(),"
    " reason = case when f.state in ('succeeded', 'failed') then 'duplicate' else f.reason end"
    " from requests f where t.batch_id = :id and t.line > :after and t.line <= :to and t.state = 'queued'"
    " and t.twin_of is not null and f.batch_id = :id and f.line = t.twin_of and f.finished_at is not null"
    " returning t.state = 'succeeded' as answered, f.cost_nano as cost)"
    " select count(*) filter (where answered), count(*) filter (where not answered),"
    " coalesce(sum(cost) filter (where answered), 0)::bigint from ended"
)


def answer_twins(database: Database, batch_id: str) -> None:
    """End the twins of a batch of which every line that is asked has ended. Safe to run at any time.

    In many small transactions: a prompt may have a million twins, and others wait for the batch's lock.
    """
    after, total = 0, 1
    while after < total:
        with database.transaction() as session:
            batch = session.get(Batch, batch_id, with_for_update={"key_share": True})
            if batch is None or not _due(batch):
                return
            total = batch.total
            _end(session, batch, after)
        after += LINES_AT_ONCE


def _due(batch: Batch) -> bool:
    ended = batch.succeeded + batch.failed
    return batch.state not in TERMINAL and batch.total - batch.duplicates <= ended < batch.total


def _end(session: Session, batch: Batch, after: int) -> None:
    answered, failed, saved_nano = session.execute(
        _END, {"id": batch.id, "after": after, "to": after + LINES_AT_ONCE}
    ).one()
    batch.succeeded += answered
    batch.failed += failed
    batch.duplicates_saved_nano += saved_nano
