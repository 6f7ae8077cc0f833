"""Comparisons and ratings that are made here of a batch's answers: one of each source, and the last one counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import or_
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from routing_service.models import Comparison, Rating
from routing_service.models.base import ComparisonSource

ROWS = 1000  # written at a time


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """How much the strong model's answer to a request is preferred over the weak one's, in [0, 1]."""

    batch_id: str
    line: int
    prompt: str
    strong: str
    weak: str
    outcome: float


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """How good a model's answer to a request is, from 1 to 5."""

    batch_id: str
    line: int
    prompt: str
    model: str
    score: int


def keep_comparisons(session: Session, source: ComparisonSource, outcomes: Iterable[PairOutcome]) -> int:
    """Write a comparison of each, in the stead of an earlier one of that source; returns how many there are.

    One that is replaced keeps its time and its id: a re-fit holds out what came last, and if what a second grading
    changed came last, prompts would be held out for their outcome. Blank prompts teach nothing and are left out.
    """
    kept, rows = 0, (_row(source, outcome) for outcome in outcomes if outcome.prompt.strip())
    while part := list(islice(rows, ROWS)):
        statement = upsert(Comparison)
        new = statement.excluded
        changed = (
            (Comparison.outcome, new.outcome),
            (Comparison.model_a, new.model_a),
            (Comparison.model_b, new.model_b),
        )
        statement = statement.on_conflict_do_update(
            index_elements=[Comparison.digest],
            set_={"model_a": new.model_a, "model_b": new.model_b, "outcome": new.outcome},
            where=or_(*(there.is_distinct_from(said) for there, said in changed)),
        )
        session.execute(statement, part)
        kept += len(part)
    return kept


def keep_ratings(session: Session, source: ComparisonSource, scores: Iterable[AnswerScore]) -> int:
    """The same of ratings, one of each source and answer."""
    kept, rows = 0, (_rating(source, score) for score in scores if score.prompt.strip())
    while part := list(islice(rows, ROWS)):
        statement = upsert(Rating)
        statement = statement.on_conflict_do_update(
            index_elements=[Rating.digest],
            set_={"score": statement.excluded.score},
            where=Rating.score != statement.excluded.score,
        )
        session.execute(statement, part)
        kept += len(part)
    return kept


def _digest(source: ComparisonSource, *about: str | int) -> bytes:
    return sha256(orjson.dumps([source, *about])).digest()


def _row(source: ComparisonSource, outcome: PairOutcome) -> dict[str, Any]:
    return {
        "digest": _digest(source, outcome.batch_id, outcome.line),
        "source": source,
        "prompt": outcome.prompt,
        "batch_id": outcome.batch_id,
        "line": outcome.line,
        "model_a": outcome.strong,
        "model_b": outcome.weak,
        "outcome": outcome.outcome,
        "weight": 1.0,
    }


def _rating(source: ComparisonSource, score: AnswerScore) -> dict[str, Any]:
    return {
        "digest": _digest(source, score.batch_id, score.line, score.model),
        "source": source,
        "prompt": score.prompt,
        "batch_id": score.batch_id,
        "line": score.line,
        "model": score.model,
        "score": score.score,
    }
