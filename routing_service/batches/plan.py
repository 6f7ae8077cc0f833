"""Plan: the batch is allocated under its budget. What is stored is the cut, not a row a request.

What may be spent on upgrades is the budget less the floor (what the cheapest models will probably cost) less one worst
case of theirs, so that the last of them can still be reserved.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import psycopg
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from routing_service.db import Database, try_lock
from routing_service.models import Batch, BatchState, Budget, ScoreRange
from routing_service.planning import Ints, Plan, cut, cut_share, cut_threshold
from routing_service.pricing import NO_CAP, price_book
from routing_service.settings import Settings

# Rows of fixed width come out of a binary COPY as a table that numpy reads in place: a million in a second.
_COPY = f"""
copy (select line, ratio, coalesce(2 * (quality[cardinality(quality)] - quality[1]), 0)::float8, floor_nano,
             expected_cost_nano[cardinality(expected_cost_nano)] - expected_cost_nano[1], pinned is not null,
             coalesce(array_position(%s::text[], coalesce(pinned, %s)), 0),
             input_bytes, coalesce(output_cap, {NO_CAP}), choices
      from requests where batch_id = %s and state = 'scored') to stdout (format binary)
"""  # noqa: S608
_FIELDS = {
    "line": ">i4",
    "ratio": ">f8",
    "gain": ">f8",
    "base": ">i8",
    "extra": ">i8",
    "pinned": "?",
    "model": ">i4",  # whichever the floor counts: number of its key among the configured ones, from 1
    "input_bytes": ">i4",
    "output_cap": ">i8",
    "choices": ">i2",
}
_HEADER_BYTES, _TRAILER_BYTES = 19, 2


def plan(database: Database, settings: Settings, batch_id: str) -> bool:
    """Plan a batch whose ranges are all scored. True when the batch has got its plan now and may be dispatched.

    Idempotent: a plan that stands is kept (`replan` moves it).
    """
    with database.transaction() as session:
        if not try_lock(session, f"plan:{batch_id}"):
            return False
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.IN_PROGRESS or _open_ranges(session, batch_id):
            return False
        if batch.planned_at is not None:
            return False
        table = scored_table(session, batch, list(settings.models))
        made = _allocate(table, _available(session, batch), batch, settings)
        if not still_in_progress(session, batch):
            return False
        now = session.scalars(select(func.clock_timestamp())).one()
        batch.shadow_price = made.shadow_price
        batch.cut_line = made.cut_line
        batch.expected_gain = made.expected_gain
        batch.expected_cost_nano = made.expected_cost
        batch.planned_at = now
        return True


def _open_ranges(session: Session, batch_id: str) -> bool:
    query = select(func.count()).where(ScoreRange.batch_id == batch_id, ScoreRange.done_at.is_(None))
    return bool(session.scalar(query))


def still_in_progress(session: Session, batch: Batch) -> bool:
    """Lock the batch's row; the client may have cancelled while the plan was made."""
    session.refresh(batch, with_for_update={"key_share": True})
    return batch.state is BatchState.IN_PROGRESS


def _available(session: Session, batch: Batch) -> int:
    budget = session.scalars(select(Budget).where(Budget.batch_id == batch.id)).one()
    return budget.limit_nano - budget.settled_nano - budget.reserved_nano


def scored_table(session: Session, batch: Batch, models: list[str]) -> npt.NDArray[Any]:
    """The batch's scored requests as a structured array."""
    field = [("width", ">i4"), ("value", "")]
    row: list[Any] = [("fields", ">i2")]
    row += [(name, np.dtype([field[0], ("value", kind)])) for name, kind in _FIELDS.items()]
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    values = (models, batch.candidates[0], batch.id)
    data = bytearray()
    with connection.cursor() as cursor, cursor.copy(_COPY, values) as copy:
        for block in copy:
            data += block
    rows = (len(data) - _HEADER_BYTES - _TRAILER_BYTES) // np.dtype(row).itemsize
    return np.frombuffer(data, dtype=row, count=rows, offset=_HEADER_BYTES)


def _allocate(table: npt.NDArray[Any], available: int, batch: Batch, settings: Settings) -> Plan:
    def column(name: str, kind: Any = np.int64) -> Any:
        return table[name]["value"].astype(kind)

    pinned = column("pinned", np.bool_)
    ratio, line = column("ratio", np.float64), column("line")
    gain = np.where(pinned, 0.0, column("gain", np.float64))  # the client decided, not the plan
    base, extra = column("base"), np.where(pinned, 0, column("extra"))
    mode = batch.options.get("mode", "plan")
    if mode == "share":
        return cut_share(ratio, gain, base, extra, line, float(batch.options["strong_share"]))
    if mode == "threshold":
        return cut_threshold(ratio, gain, base, extra, float(batch.options["threshold"]))
    sizes = [column(name) for name in ("input_bytes", "output_cap", "choices")]
    margin = largest_worst_case(column("model"), sizes, settings)
    return cut(ratio, gain, base, extra, line, available - margin)


def largest_worst_case(model: Ints, sizes: list[Ints], settings: Settings) -> int:
    """The most that one request can cost at the model that the floor counts for it."""
    prices = price_book(settings)
    largest = 0
    for number, (key, model_settings) in enumerate(settings.models.items(), start=1):
        mine = [size[model == number] for size in sizes]
        largest = max(largest, int(prices.worst_cases(key, model_settings, *mine).max(initial=0)))
    return largest
