"""The tables `comparisons` and `ratings` as training data, and as JSON lines that an import takes again.

A comparison is what feedback, a judge or an import left of two models' answers; a rating is a score of 1 to 5 of one
answer. Whoever has an API key can vote, so what the votes of one key weigh together is capped: above it each weighs
less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, BinaryIO

from sqlalchemy import ColumnElement, Double, case, cast, func, select, true
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.models.base import ComparisonSource
from routing_service.models.learning import Comparison, Rating
from training.data.comparisons import LISTED_PAIRS
from training.data.forms import Reading, comparison, rating
from training.data.readers import Collector
from training.data.tables import BadRow, DataError
from training.progress import Progress, silent

__all__ = ["Stored", "read_database", "read_ratings", "stored"]

COMPARISONS_TABLE = "the table comparisons"
COMPARISON_COLUMNS = ("prompt", "model_a", "model_b", "outcome", "weight")
ROWS = 2000  # in memory at a time
FEEDBACK: ColumnElement[bool] = Comparison.source == ComparisonSource.FEEDBACK
EVERY: ColumnElement[bool] = true()
# Both models answered a request of live traffic, and somebody other than its client judged them
LIVE: ColumnElement[bool] = Comparison.line.is_not(None) & Comparison.source.in_(
    (ComparisonSource.GOLDEN, ComparisonSource.JUDGE)
)


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
    rows = session.execute(query, execution_options={"yield_per": ROWS})
    with progress("reading the database", total) as advance:
        for part in rows.partitions():
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
    counts = session.execute(
        select(Comparison.api_key_id, weight)
        .where(usable, wanted)
        .group_by(Comparison.api_key_id)
        .having(weight > most)
    )
    return {key_id: most / total for key_id, total in counts}


EXPORT_COLUMNS = (
    "prompt",
    "model_a",
    "model_b",
    "outcome",
    "weight",
    "source",
    "created_at",
    "batch_id",
    "line",
    "api_key_id",
    "digest",
)


def export_comparisons(session: Session, stream: BinaryIO, progress: Progress = silent) -> int:
    """Write all comparisons in the order of their ids, through a cursor of the server; returns how many."""
    total = session.scalar(select(func.count()).select_from(Comparison)) or 0
    wanted = select(*(getattr(Comparison, name) for name in EXPORT_COLUMNS)).order_by(Comparison.id)
    rows = session.execute(wanted, execution_options={"yield_per": ROWS})
    written = 0
    with progress("writing comparisons", total) as advance:
        for part in rows.partitions():
            stream.write(b"".join(_line(row) for row in part))
            written += len(part)
            advance(len(part))
    return written


def _line(row: Row[Any]) -> bytes:
    value = {name: cell for name, cell in zip(EXPORT_COLUMNS, row, strict=True) if cell is not None}
    value["source"] = row.source.value
    value["created_at"] = row.created_at.isoformat()
    value["digest"] = row.digest.hex()
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


RATINGS_TABLE = "the table ratings"


def read_ratings(
    session: Session, into: Collector, progress: Progress = silent, *, feedback_weight_per_key: float
) -> None:
    """Add the ratings of the weak model's answers, in the order of their ids, through a cursor of the server.

    `feedback_weight_per_key`: what a key's feedback weighs together at most. An empty prompt is a bad row. DataError
    where no models are named, or none of the weak one's answers is rated.
    """
    if into.pair is None:
        raise DataError("ratings name their model: say which model is strong and which is weak")
    weak = into.pair[1]
    total = _count(session, into, weak)
    shares = _rating_shares(session, weak, feedback_weight_per_key)
    voter = case((Rating.source == ComparisonSource.FEEDBACK, Rating.api_key_id))
    wanted = select(Rating.id, Rating.source, voter, Rating.prompt, Rating.score)
    rows = session.execute(
        wanted.where(Rating.model == weak).order_by(Rating.id), execution_options={"yield_per": ROWS}
    )
    with progress("reading ratings", total) as advance:
        for part in rows.partitions():
            for number, source, key_id, prompt, score in part:
                into.counted["rows"] += 1
                try:
                    row = rating({"prompt": prompt, "score": score, "model": weak, "source": source.value}, {})
                    into.add(replace(row, weight=row.weight * shares.get(key_id, 1.0)))
                except ValueError as error:
                    into.leave_out(BadRow(RATINGS_TABLE, number, str(error), unit="id"))
            advance(len(part))


def _count(session: Session, into: Collector, weak: str) -> int:
    """How many are of the weak model; the others are counted as left out."""
    counts = {row[0]: row[1] for row in session.execute(select(Rating.model, func.count()).group_by(Rating.model))}
    if weak not in counts:
        rated = sorted(counts, key=lambda name: (-counts[name], name))[:LISTED_PAIRS]
        names = ", ".join(f"{name} ({counts[name]:,})" for name in rated)
        raise DataError(f"the database holds no rating of an answer of {weak}. Rated: {names or 'none'}")
    others = sum(counts.values()) - counts[weak]
    into.counted["rows"] += others
    into.counted["other_ratings"] += others
    return int(counts[weak])


def _rating_shares(session: Session, weak: str, most: float) -> dict[str | None, float]:
    """By key that has given more than `most` ratings: what of one counts."""
    votes = (Rating.model == weak) & (Rating.source == ComparisonSource.FEEDBACK) & Rating.api_key_id.is_not(None)
    count = func.count()
    query = select(Rating.api_key_id, count).where(votes).group_by(Rating.api_key_id).having(count > most)
    return {key_id: most / given for key_id, given in session.execute(query)}
