"""Comparisons from the database: what feedback, judges and imports have left in the table `comparisons`.

Whoever has an API key can vote, so what the votes of one key weigh together is capped: above it each weighs less.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import ColumnElement, Double, case, cast, func, select
from sqlalchemy.orm import Session

from routing_service.models.base import ComparisonSource
from routing_service.models.learning import Comparison
from training.forms import comparison
from training.methods import Progress, silent
from training.readers import Collector
from training.tables import BadRow, DataError

NAME = "the table comparisons"
COLUMNS = ("prompt", "model_a", "model_b", "outcome", "weight")
ROWS = 2000  # in memory at a time
FEEDBACK: ColumnElement[bool] = Comparison.source == ComparisonSource.FEEDBACK

__all__ = ["read_database"]


def read_database(
    session: Session, into: Collector, progress: Progress = silent, *, feedback_weight_per_key: float
) -> None:
    """Add all comparisons, in the order of their ids, through a cursor of the server. DataError where there are none.

    `feedback_weight_per_key`: what a key's feedback weighs together at most. What the table's checks let through and a
    fit cannot use (an empty prompt, a weight that is NaN) is a bad row.
    """
    total = session.scalar(select(func.count()).select_from(Comparison)) or 0
    if not total:
        raise DataError("the database holds no comparisons: feedback, judged pairs and imports would leave them there")
    shares = _shares(session, feedback_weight_per_key)
    columns = [getattr(Comparison, name) for name in COLUMNS]
    voter = case((FEEDBACK, Comparison.api_key_id))
    wanted = select(Comparison.id, Comparison.source, voter, *columns).order_by(Comparison.id)
    found = session.execute(wanted, execution_options={"yield_per": ROWS})
    with progress("reading the database", total) as advance:
        for part in found.partitions():
            for number, source, key_id, *values in part:
                into.counted["rows"] += 1
                try:
                    row = comparison(dict(zip(COLUMNS, values, strict=True)) | {"source": source.value}, {})
                    into.add(replace(row, weight=row.weight * shares[key_id]) if key_id in shares else row)
                except ValueError as error:
                    into.leave_out(BadRow(NAME, number, str(error), unit="id"))
            advance(len(part))


def _shares(session: Session, most: float) -> dict[str, float]:
    """By key whose feedback weighs more than `most`: what of a vote's weight counts."""
    weight = func.sum(cast(Comparison.weight, Double))
    usable = FEEDBACK & Comparison.api_key_id.is_not(None) & (Comparison.weight < float("inf"))  # NaN is above, too
    found = session.execute(
        select(Comparison.api_key_id, weight).where(usable).group_by(Comparison.api_key_id).having(weight > most)
    )
    return {key_id: most / total for key_id, total in found if key_id is not None}
