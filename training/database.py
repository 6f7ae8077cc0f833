"""Comparisons from the database: what feedback, judges and imports have left in the table `comparisons`.

Whoever has an API key can vote, so what the votes of one key weigh together is capped: above it each weighs less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Double, case, cast, func, select, true
from sqlalchemy.orm import Session

from routing_service.models.base import ComparisonSource
from routing_service.models.learning import Comparison
from training.forms import Reading, comparison
from training.methods import Progress, silent
from training.readers import Collector
from training.tables import BadRow, DataError

COMPARISONS_TABLE = "the table comparisons"
COMPARISON_COLUMNS = ("prompt", "model_a", "model_b", "outcome", "weight")
ROWS = 2000  # in memory at a time
FEEDBACK: ColumnElement[bool] = Comparison.source == ComparisonSource.FEEDBACK
EVERY: ColumnElement[bool] = true()
# Both models answered a request of live traffic, and somebody other than its client judged them
LIVE: ColumnElement[bool] = Comparison.line.is_not(None) & Comparison.source.in_(
    (ComparisonSource.GOLDEN, ComparisonSource.JUDGE)
)

__all__ = ["Stored", "read_database", "stored"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of the table: its id, when it came, whether it is of live traffic, and what it says."""

    id: int
    created_at: datetime
    live: bool
    reading: Reading | BadRow


def read_database(
    session: Session, into: Collector, progress: Progress = silent, *, feedback_weight_per_key: float
) -> None:
    """Add all comparisons, in the order of their ids, through a cursor of the server. DataError where there are none.

    `feedback_weight_per_key`: what a key's feedback weighs together at most. What the table's checks let through and a
    fit cannot use (an empty prompt, a weight that is NaN) is a bad row.
    """
    for row in stored(session, progress, feedback_weight_per_key=feedback_weight_per_key):
        into.counted["rows"] += 1
        if isinstance(row.reading, BadRow):
            into.leave_out(row.reading)
        else:
            into.add(row.reading)


def stored(
    session: Session,
    progress: Progress = silent,
    *,
    feedback_weight_per_key: float,
    wanted: ColumnElement[bool] = EVERY,
) -> Iterator[Stored]:
    """The rows themselves that are `wanted`, as `read_database` reads them."""
    total = session.scalar(select(func.count()).select_from(Comparison).where(wanted)) or 0
    if not total:
        raise DataError("the database holds no comparisons: feedback, judged pairs and imports would leave them there")
    shares = _shares(session, feedback_weight_per_key, wanted)
    columns = [getattr(Comparison, name) for name in COMPARISON_COLUMNS]
    told = (Comparison.id, Comparison.created_at, LIVE, Comparison.source, case((FEEDBACK, Comparison.api_key_id)))
    query = select(*told, *columns).where(wanted).order_by(Comparison.id)
    found = session.execute(query, execution_options={"yield_per": ROWS})
    with progress("reading the database", total) as advance:
        for part in found.partitions():
            for number, at, live, source, key_id, *values in part:
                cells = dict(zip(COMPARISON_COLUMNS, values, strict=True)) | {"source": source.value}
                yield Stored(number, at, live, _read(number, cells, shares.get(key_id, 1.0)))
            advance(len(part))


def _read(number: int, cells: dict[str, object], share: float) -> Reading | BadRow:
    try:
        reading = comparison(cells, {})
    except ValueError as error:
        return BadRow(COMPARISONS_TABLE, number, str(error), unit="id")
    return replace(reading, weight=reading.weight * share)


def _shares(session: Session, most: float, wanted: ColumnElement[bool]) -> dict[str | None, float]:
    """By key whose feedback weighs more than `most`: what of a vote's weight counts."""
    weight = func.sum(cast(Comparison.weight, Double))
    usable = FEEDBACK & Comparison.api_key_id.is_not(None) & (Comparison.weight < float("inf"))  # NaN is above, too
    found = session.execute(
        select(Comparison.api_key_id, weight)
        .where(usable, wanted)
        .group_by(Comparison.api_key_id)
        .having(weight > most)
    )
    return {key_id: most / total for key_id, total in found}
