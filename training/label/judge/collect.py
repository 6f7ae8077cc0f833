"""Collecting: when a judge's companion has ended, its replies become verdicts, and these comparisons and ratings.

Of a pair, both orders must have a verdict. Where they prefer the same answer it is preferred; else the pair is a tie.
A companion is collected once, in one transaction, whoever comes first: the command that waits, or the periodic task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from routing_service.db import Database, try_lock
from routing_service.exploration.pairs import answer_text
from routing_service.models import TERMINAL, Batch, Judgement, Request, RequestState
from routing_service.models.base import ComparisonSource
from routing_service.openai_format.body import prompt_text
from training.label.judge.prompts import FIRST, SECOND, TIE, UNANSWERED, UNPARSED, mode_of, read_verdict
from training.label.store import AnswerScore, PairOutcome, keep_comparisons, keep_ratings

_READ = text(
    "update judgements set verdict = :verdict, read_at = now() where batch_id = :batch_id and line = :line"
    " and verdict is null"
)


@dataclass(frozen=True, slots=True)
class Collected:
    """Of so many companions: their replies by what was read of them, and what was made of it."""

    batches: int = 0
    verdicts: int = 0
    unparsed: int = 0
    unanswered: int = 0
    comparisons: int = 0
    ratings: int = 0

    def __add__(self, other: Collected) -> Collected:
        return Collected(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def collect_judgements(database: Database) -> Collected:
    """Read the replies of all companions that have ended, the oldest first. Safe to run at any time, by several."""
    with database.transaction() as session:
        ended = session.scalars(
            select(Judgement.batch_id)
            .join(Batch, Batch.id == Judgement.batch_id)
            .where(Judgement.verdict.is_(None), Batch.state.in_(TERMINAL))
            .group_by(Judgement.batch_id, Batch.created_at)
            .order_by(Batch.created_at, Judgement.batch_id)
        ).all()
    collected = Collected()
    for batch_id in ended:
        with database.transaction() as session:
            if try_lock(session, f"judgements:{batch_id}"):
                collected += _collect(session, batch_id)
    return collected


def collected_of(session: Session, batch_id: str) -> Collected | None:
    """What was collected of one companion, whoever did it; None while it has questions that were not read."""
    rows = session.scalars(select(Judgement).where(Judgement.batch_id == batch_id)).all()
    read = [(row, row.verdict) for row in rows if row.verdict is not None]
    if len(read) < len(rows):
        return None
    lines = {row.parent_line: "" for row in rows}
    return _counted(read, len([*_outcomes(read, lines)]), len([*_scores(read, lines)]))


def _collect(session: Session, batch_id: str) -> Collected:
    rows = session.execute(
        select(Judgement, Request.state, Request.response)
        .join(Request, (Request.batch_id == Judgement.batch_id) & (Request.line == Judgement.line))
        .where(Judgement.batch_id == batch_id, Judgement.verdict.is_(None))
        .order_by(Judgement.line)
    ).all()
    if not rows:
        return Collected()  # somebody was faster
    read = [(row[0], _verdict(*row)) for row in rows]
    session.execute(_READ, [{"batch_id": batch_id, "line": j.line, "verdict": verdict} for j, verdict in read])
    prompts = _prompts(session, read[0][0].parent_id, {j.parent_line for j, _ in read})
    comparisons = keep_comparisons(session, ComparisonSource.JUDGE, _outcomes(read, prompts))
    return _counted(read, comparisons, keep_ratings(session, ComparisonSource.JUDGE, _scores(read, prompts)))


def _counted(read: Sequence[tuple[Judgement, str]], comparisons: int, ratings: int) -> Collected:
    verdicts = [verdict for _, verdict in read]
    unparsed, unanswered = verdicts.count(UNPARSED), verdicts.count(UNANSWERED)
    return Collected(1, len(read) - unparsed - unanswered, unparsed, unanswered, comparisons, ratings)


def _verdict(judgement: Judgement, state: RequestState, response: str | None) -> str:
    if state is not RequestState.SUCCEEDED or response is None:
        return UNANSWERED
    return read_verdict(mode_of(judgement.template), answer_text(response) or "")


def strong_preferred(verdict: str, swapped: bool) -> float | None:
    """How much a verdict prefers the strong model's answer: 1, 0 or 0.5; None where it is none on a pair."""
    points = {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}.get(verdict)
    return points if points is None or not swapped else 1 - points


def outcome_of(one: float | None, other: float | None) -> float | None:
    """What the two orders say together: what both say, else a tie; None where one says nothing."""
    if one is None or other is None:
        return None
    return one if one == other else 0.5


def _outcomes(read: Sequence[tuple[Judgement, str]], prompts: dict[int, str]) -> Iterator[PairOutcome]:
    pairs: defaultdict[int, dict[bool, tuple[Judgement, str]]] = defaultdict(dict)
    for judgement, verdict in read:
        if judgement.model_b is not None:
            pairs[judgement.parent_line][judgement.swapped] = judgement, verdict
    for line, orders in pairs.items():
        if len(orders) < 2 or line not in prompts:
            continue
        first = orders[False][0]
        outcome = outcome_of(*(strong_preferred(verdict, swapped) for swapped, (_, verdict) in orders.items()))
        if outcome is not None and first.model_b is not None:
            yield PairOutcome(first.parent_id, line, prompts[line], first.model_a, first.model_b, outcome)


def _scores(read: Sequence[tuple[Judgement, str]], prompts: dict[int, str]) -> Iterator[AnswerScore]:
    for judgement, verdict in read:
        if judgement.model_b is None and verdict.isdecimal() and judgement.parent_line in prompts:
            about = prompts[judgement.parent_line], judgement.model_a
            yield AnswerScore(judgement.parent_id, judgement.parent_line, *about, int(verdict))


def _prompts(session: Session, batch_id: str, lines: set[int]) -> dict[int, str]:
    rows = session.execute(
        text("select line, body from requests where batch_id = :id and line = any(cast(:lines as int[]))"),
        {"id": batch_id, "lines": sorted(lines)},
    )
    return {line: prompt_text(orjson.loads(body)) for line, body in rows}
