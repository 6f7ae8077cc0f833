"""Comparisons from the database: what feedback, judges and imports have left in the table `comparisons`."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from routing_service.models.learning import Comparison
from training.forms import comparison
from training.methods import Progress, silent
from training.readers import Collector
from training.tables import BadRow, DataError

NAME = "the table comparisons"
COLUMNS = ("prompt", "model_a", "model_b", "outcome", "weight")
ROWS = 2000  # in memory at a time

__all__ = ["read_database"]


def read_database(session: Session, into: Collector, progress: Progress = silent) -> None:
    """Add all comparisons, in the order of their ids, through a cursor of the server. DataError where there are none.

    What the table's checks let through and a fit cannot use (an empty prompt, a weight that is NaN) is a bad row.
    """
    total = session.scalar(select(func.count()).select_from(Comparison)) or 0
    if not total:
        raise DataError("the database holds no comparisons: feedback, judged pairs and imports would leave them there")
    columns = [getattr(Comparison, name) for name in COLUMNS]
    wanted = select(Comparison.id, Comparison.source, *columns).order_by(Comparison.id)
    found = session.execute(wanted, execution_options={"yield_per": ROWS})
    with progress("reading the database", total) as advance:
        for part in found.partitions():
            for number, source, *values in part:
                into.counted["rows"] += 1
                try:
                    into.add(comparison(dict(zip(COLUMNS, values, strict=True)) | {"source": source.value}, {}))
                except ValueError as error:
                    into.leave_out(BadRow(NAME, number, str(error), unit="id"))
            advance(len(part))
