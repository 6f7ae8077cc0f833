"""Ratings from the database: scores of 1 to 5 that judges and clients gave to one model's answers."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from routing_service.models.base import ComparisonSource
from routing_service.models.learning import Rating
from training.comparisons import LISTED_PAIRS
from training.database import ROWS
from training.forms import rating
from training.methods import Progress, silent
from training.readers import Collector
from training.tables import BadRow, DataError

RATINGS_TABLE = "the table ratings"

__all__ = ["read_ratings"]


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
    found = session.execute(
        wanted.where(Rating.model == weak).order_by(Rating.id), execution_options={"yield_per": ROWS}
    )
    with progress("reading ratings", total) as advance:
        for part in found.partitions():
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
