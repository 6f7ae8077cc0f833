"""Ingest: a batch's file is validated and copied into requests, in one transaction; or the batch fails with reasons.

Running it twice, or again after a crash, is safe: an advisory lock keeps a second runner out, nothing is seen before
the commit, and only a batch that still waits for it is taken up. The batch's row is not locked while the file is read,
so that a client can cancel meanwhile.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any, cast

import psycopg
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from routing_service.batches.lengths import with_learned_priors
from routing_service.batches.split import split_lines
from routing_service.db import Database, try_lock
from routing_service.lines import Line, LineError, line_too_long, parse_line, threshold_alias
from routing_service.models import Batch, BatchState, Budget, FileChunk, ScoreRange
from routing_service.pricing import PriceBook, expected_nano, format_usd, input_bound, output_bound, worst_case_nano
from routing_service.settings import Settings

CHUNKS_AT_ONCE = 8

_COPY = (
    "copy requests (batch_id, line, custom_id, body, pinned, max_cost_nano, input_bytes, output_cap, choices,"
    " floor_nano) from stdin"
)


class _RefusedError(Exception):
    """The file is not valid: undo the copy."""


class _SupersededError(Exception):
    """The batch no longer waits for its ingest: undo the copy."""


@dataclass
class _Intake:
    """What is learnt of a file while its lines pass."""

    settings: Settings
    prices: PriceBook
    cheapest: str
    total: int = 0
    alias: str | None = None
    floor_nano: int = 0
    largest_worst_nano: int = 0
    error_count: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[bytes, int] = field(default_factory=dict)  # digests: custom ids may be long

    def refuse(self, error: LineError, line: int | None = None) -> None:
        self.error_count += 1
        if len(self.errors) < self.settings.limits.max_listed_errors:
            entry = {"code": error.code, "message": error.message, "param": error.param, "line": line}
            self.errors.append(entry)

    def take(self, number: int, raw: bytes | None) -> tuple[Line, int]:
        """The checked line and its share of the floor. LineError where it is refused."""
        if raw is None:
            raise line_too_long(self.settings)
        if not raw:
            raise LineError("invalid_json_line", "The line is empty.")
        line = parse_line(raw, self.settings)
        digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
        earlier = self.seen.setdefault(digest, number)
        if earlier != number:
            message = f"The custom_id is already used on line {earlier}; each line needs its own."
            raise LineError("duplicate_custom_id", message, "custom_id")
        if self.alias is None:
            self.alias = line.alias
        if line.alias != self.alias:
            message = f"Every line of a batch names the same model; earlier lines name {self.alias!r}."
            raise LineError("mismatched_model", message, "body.model")
        return line, self._count(line)

    def _count(self, line: Line) -> int:
        """Add the line to the sums; returns what the cheapest model that may answer it will probably cost."""
        key = line.pinned or self.cheapest
        model = self.settings.models[key]
        bound = input_bound(line.input_bytes, model)
        price = self.prices.price(key, bound)
        worst = worst_case_nano(price, bound, output_bound(line.output_cap, line.choices, model))
        expected = expected_nano(price, line.input_bytes, line.output_cap, line.choices, model)
        self.largest_worst_nano = max(self.largest_worst_nano, worst)
        self.floor_nano += expected
        return expected


def ingest(database: Database, settings: Settings, prices: PriceBook, batch_id: str) -> list[int] | None:
    """Ingest a batch that is `validating`: it becomes `in_progress`, or `failed` with its errors.

    Returns the first lines of the score ranges to announce (none for a batch that failed), or None when there was
    nothing to do: ingested or cancelled already, or another runner is at it.
    """
    with database.transaction() as session:
        if not try_lock(session, f"ingest:{batch_id}"):
            return None
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.VALIDATING:
            return None
        intake = _Intake(with_learned_priors(session, settings), prices, batch.candidates[0])
        try:
            with session.begin_nested():
                _read_file(database, session, batch, intake)
                _check_budget(session, batch_id, intake)
                if intake.error_count:
                    raise _RefusedError
                _lock(session, batch)
                return _accept(session, batch, intake)
        except _SupersededError:
            return None
        except _RefusedError:
            return _fail(session, batch, intake)


def _read_file(database: Database, session: Session, batch: Batch, intake: _Intake) -> None:
    """Validate every line; copy them until the first one that is refused."""
    unknown = [name for name in batch.candidates if name not in intake.settings.models or name not in intake.prices]
    if unknown:
        message = f"The model {unknown[0]!r} that this batch was created for is no longer configured with a price."
        return intake.refuse(LineError("unpriced_model", message, "model"))
    most = intake.settings.limits.max_lines
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    with (
        closing(_chunks(database, batch.input_file_id)) as chunks,
        connection.cursor() as cursor,
        cursor.copy(_COPY) as copy,
    ):
        for number, raw in split_lines(chunks, intake.settings.limits.max_line_bytes):
            if number > most:
                intake.refuse(LineError("too_many_lines", f"The file has more than {most:,} lines."), number)
                break
            intake.total = number
            try:
                line, floor_nano = intake.take(number, raw)
            except LineError as error:
                intake.refuse(error, number)
                continue
            if not intake.error_count:
                copy.write_row(_row(batch.id, number, line, floor_nano))
    if not intake.total:
        intake.refuse(LineError("empty_file", "The file has no lines."))


def _chunks(database: Database, file_id: str) -> Generator[bytes]:
    """The file, streamed over a connection of its own: the other one is busy copying."""
    query = select(FileChunk.data).where(FileChunk.file_id == file_id).order_by(FileChunk.number)
    with database.transaction() as session:
        yield from session.scalars(query.execution_options(yield_per=CHUNKS_AT_ONCE))


def _row(batch_id: str, number: int, line: Line, floor_nano: int) -> tuple[Any, ...]:
    return (
        batch_id,
        number,
        line.custom_id,
        line.body,
        line.pinned,
        line.max_cost_nano,
        line.input_bytes,
        line.output_cap,
        line.choices,
        floor_nano,
    )


def _check_budget(session: Session, batch_id: str, intake: _Intake) -> None:
    """The budget must cover what all-weak will probably cost, and one worst case on top to have it reserved."""
    if intake.error_count:
        return
    limit = session.scalars(select(Budget.limit_nano).where(Budget.batch_id == batch_id)).one()
    least = intake.floor_nano + intake.largest_worst_nano
    if limit < least:
        millionths = -(-least // 1000) * 1000
        message = (
            f"The budget of ${format_usd(limit)} is too small for this batch even at its cheapest;"
            f" the least that will do is ${format_usd(millionths)}."
        )
        intake.refuse(LineError("budget_too_small", message, "budget_usd"))


def _lock(session: Session, batch: Batch) -> None:
    session.refresh(batch, with_for_update={"key_share": True})
    if batch.state is not BatchState.VALIDATING:
        raise _SupersededError


def _accept(session: Session, batch: Batch, intake: _Intake) -> list[int]:
    now = _now(session)
    step = intake.settings.score.range_lines
    first_lines = list(range(1, intake.total + 1, step))
    ranges = [
        {
            "batch_id": batch.id,
            "first_line": first,
            "last_line": min(first + step - 1, intake.total),
            "announced_at": now,
        }
        for first in first_lines
    ]
    session.execute(insert(ScoreRange), ranges)
    _follow_alias(batch, intake.alias or "", intake.settings)
    batch.model = intake.alias
    batch.total = intake.total
    batch.floor_nano = intake.floor_nano
    batch.state = BatchState.IN_PROGRESS
    batch.in_progress_at = batch.announced_at = now
    return first_lines


def _follow_alias(batch: Batch, alias: str, settings: Settings) -> None:
    """A model name of RouteLLM's form (`router-<method>-<threshold>`) names the batch's router and mode."""
    named = threshold_alias(alias, settings)
    if named is not None:
        batch.router, threshold = named
        mode = {"mode": "threshold", "threshold": threshold, "router": batch.router, "strong_share": None}
        batch.options = batch.options | mode


def _fail(session: Session, batch: Batch, intake: _Intake) -> list[int] | None:
    try:
        _lock(session, batch)
    except _SupersededError:
        return None
    now = _now(session)
    batch.errors = intake.errors
    batch.error_count = intake.error_count
    batch.state = BatchState.FAILED
    batch.failed_at = now
    return []


def _now(session: Session) -> datetime:
    """The time it is, not the time at which this transaction began: reading a file takes a while."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now
