"""Ingest: a batch's file is validated and copied into requests, in one transaction; or the batch fails with reasons.

A batch that continues another has its lines from there.

Running it twice, or again after a crash, is safe: an advisory lock keeps a second runner out, nothing is seen before
the commit, and only a batch that still waits for it is taken up. The batch's row is not locked while the file is read,
so that a client can cancel meanwhile.
"""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import Any, cast

import psycopg
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from routing_service.batches.exploration_budget import whole_budget
from routing_service.batches.options import too_small
from routing_service.db import Database, try_lock
from routing_service.ingest.reader import file_lines, unanswered_lines
from routing_service.ingest.tally import Intake
from routing_service.models import Batch, BatchState, Budget, ScoreRange
from routing_service.money.pricing import PriceBook
from routing_service.openai_format.line import Line, LineError, threshold_alias
from routing_service.scoring.lengths import with_learned_priors
from routing_service.settings import Settings

_COPY = (
    "copy requests (batch_id, line, custom_id, body, pinned, max_cost_nano, input_bytes, output_cap, choices,"
    " floor_nano, twin_of, call_digest, priority) from stdin"
)
_COUNT_ANSWERS = text(
    "update requests q set answers = 1 + t.duplicates, priority = greatest(q.priority, t.highest)"
    " from (select twin_of, count(*) as duplicates, max(priority) as highest from requests"
    " where batch_id = :id and twin_of is not null group by twin_of) t where q.batch_id = :id and q.line = t.twin_of"
)


class _RefusedError(Exception):
    """The file is not valid: undo the copy."""


class _SupersededError(Exception):
    """The batch no longer waits for its ingest: undo the copy."""


def ingest(database: Database, settings: Settings, prices: PriceBook, batch_id: str) -> BatchState | None:
    """Ingest a batch that is `validating`: it becomes `in_progress`, or `failed` with its errors.

    Returns the state that it got, or None when there was nothing to do: ingested or cancelled already, or another
    runner is at it.
    """
    with database.transaction() as session:
        if not try_lock(session, f"ingest:{batch_id}"):
            return None
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.VALIDATING:
            return None
        known = with_learned_priors(session, settings)
        intake = Intake(known, prices, batch.candidates[0], batch.options.get("dedupe", "off"))
        try:
            with session.begin_nested():
                _copy_lines(database, session, batch, intake)
                _lock(session, batch)  # before the budget is read: it may be topped up meanwhile
                if not batch.is_preview:  # which shows what would do
                    _check_budget(session, batch, intake)
                if intake.error_count:
                    raise _RefusedError
                return _accept(session, batch, intake)
        except _SupersededError:
            return None
        except _RefusedError:
            return _fail(session, batch, intake)


def _copy_lines(database: Database, session: Session, batch: Batch, intake: Intake) -> None:
    """Copy the batch's lines until the first one that is refused; the others are only validated."""
    unknown = [name for name in batch.candidates if name not in intake.settings.models or name not in intake.prices]
    if unknown:
        message = f"The model {unknown[0]!r} that this batch was created for is no longer configured with a price."
        return intake.refuse(LineError("unpriced_model", message, "model"))
    lines = file_lines if batch.continues is None else unanswered_lines
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    with (
        closing(lines(database, batch, intake)) as incoming,
        connection.cursor() as cursor,
        cursor.copy(_COPY) as copy,
    ):
        for number, line, floor_nano, first in incoming:
            if not intake.error_count:
                copy.write_row(_row(batch, number, line, floor_nano, first))
    if not intake.total:
        intake.refuse(LineError("empty_file", "The file has no lines."))
    if intake.duplicates:
        session.execute(_COUNT_ANSWERS, {"id": batch.id})


def _row(batch: Batch, number: int, line: Line, floor_nano: int, first: int | None) -> tuple[Any, ...]:
    reusable = first is None and batch.options.get("dedupe") == "key"
    return (
        batch.id,
        number,
        line.custom_id,
        line.body,
        line.pinned,
        line.max_cost_nano,
        line.input_bytes,
        line.output_cap,
        line.choices,
        floor_nano,
        first,
        line.call if reusable else None,
        line.priority,
    )


def _check_budget(session: Session, batch: Batch, intake: Intake) -> None:
    """The budget, less what is set aside for exploration, must cover what all-weak will probably cost, and one worst
    case on top to have it reserved."""
    if intake.error_count:
        return
    limit = session.scalars(select(Budget.limit_nano).where(Budget.batch_id == batch.id)).one()
    least = intake.floor_nano + intake.largest_worst_nano
    if limit < least:
        whole = whole_budget(least, batch.options, batch.candidates, intake.settings)
        intake.refuse(LineError("budget_too_small", too_small(limit + batch.explore_nano, whole), "budget_usd"))


def _lock(session: Session, batch: Batch) -> None:
    session.refresh(batch, with_for_update={"key_share": True})
    if batch.state is not BatchState.VALIDATING:
        raise _SupersededError


def _accept(session: Session, batch: Batch, intake: Intake) -> BatchState:
    now = _now(session)
    step = intake.settings.score.range_lines
    ranges = [
        {"batch_id": batch.id, "first_line": first, "last_line": min(first + step - 1, intake.total)}
        for first in range(1, intake.total + 1, step)
    ]
    session.execute(insert(ScoreRange), ranges)
    _follow_alias(batch, intake.alias or "", intake.settings)
    batch.model = intake.alias
    batch.total = intake.total
    batch.duplicates = intake.duplicates
    batch.floor_nano = intake.floor_nano
    batch.line_priorities = sorted(intake.priorities, reverse=True)
    batch.state = BatchState.IN_PROGRESS
    batch.in_progress_at = batch.announced_at = now
    return batch.state


def _follow_alias(batch: Batch, alias: str, settings: Settings) -> None:
    """A model name of RouteLLM's form (`router-<method>-<threshold>`) names the batch's router and mode."""
    named = threshold_alias(alias, settings)
    if named is not None:
        batch.router, threshold = named
        batch.router_version_id = None
        mode = {"mode": "threshold", "threshold": threshold, "router": batch.router, "strong_share": None}
        batch.options = batch.options | mode


def _fail(session: Session, batch: Batch, intake: Intake) -> BatchState | None:
    try:
        _lock(session, batch)
    except _SupersededError:
        return None
    now = _now(session)
    batch.errors = intake.errors
    batch.error_count = intake.error_count
    batch.state = BatchState.FAILED
    batch.failed_at = now
    return batch.state


def _now(session: Session) -> datetime:
    """The time it is, not the time at which this transaction began: reading a file takes a while."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now
