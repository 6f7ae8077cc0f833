"""The sweep: finds work whose owner died and work that nobody announced, and sees to it that both go on.

It runs every `sweep.interval_s`. Everything it does may be done twice.
"""

from __future__ import annotations

import random

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.batches.pauses import (
    resume_after_refusals,
    resume_after_stops,
    resume_with_key_budgets,
    resume_with_models,
)
from routing_service.db import Database
from routing_service.dispatch.answer_cache import forget_old_answers
from routing_service.dispatch.fairness import runnable_batches
from routing_service.dispatch.settle import Result, settle
from routing_service.events import DispatchDue, FinishDue, IngestDue, PlanDue, Publisher, ScoreDue
from routing_service.money.pricing import Price
from routing_service.openai_format import files
from routing_service.scoring.score import announce_ranges
from routing_service.settings import Settings
from routing_service.upstream.outcome import LOST, RetryPolicy

CHUNK = 500


def sweep(database: Database, settings: Settings, publisher: Publisher) -> None:
    """Recover abandoned attempts, remove expired files, forget old answers, resume what may go on, then announce again
    what waits."""
    policy = RetryPolicy.of(settings.dispatch)
    while _recover_chunk(database, policy):
        pass
    while _remove_expired_file(database):
        pass
    forget_old_answers(database, settings)
    after_s = settings.sweep.announce_after_s
    with database.transaction() as session:
        resume_with_models(session, settings)
        resume_with_key_budgets(session)
        resume_after_refusals(session, settings)
        resume_after_stops(session, settings)
        ingests = _stale_batches(session, "state = 'validating' and expires_at > now()", after_s)
        plans = _stale_batches(session, _ALL_SCORED, after_s) + _stale_batches(session, _PROBING, after_s)
        finishes = _stale_batches(session, _FINISHABLE, settings.sweep.interval_s)
        finishes += _stale_batches(session, _TO_EXPLORE, settings.sweep.interval_s)
        ranges = _stale_ranges(session, after_s)
    for batch_id in ingests:
        publisher.publish(IngestDue(batch_id))
    for batch_id, first_line in ranges:
        publisher.publish(ScoreDue(batch_id, first_line))
    announce_ranges(database, settings, publisher)
    for batch_id in plans:
        publisher.publish(PlanDue(batch_id))
    for batch_id in finishes:
        publisher.publish(FinishDue(batch_id))
    if any(batch.due for batch in runnable_batches(database)):
        publisher.publish(DispatchDue())


_ALL_SCORED = (
    "state = 'in_progress' and planned_at is null and not exists"
    " (select from score_ranges where score_ranges.batch_id = batches.id and done_at is null)"
)
_PROBING = "state = 'in_progress' and planned_at is not null and probes is not null and paused is null"
_FINISHABLE = (
    "state in ('cancelling', 'finalizing') or (state in ('validating', 'in_progress') and expires_at <= now())"
    " or (state = 'in_progress' and total > 0 and succeeded + failed >= total - duplicates)"
)
_TO_EXPLORE = "explore_nano > 0 and explored_at is null and state = 'completed'"


def _recover_chunk(database: Database, policy: RetryPolicy) -> bool:
    """Settle in full what a pump with an expired lease had in flight. Returns True if there may be more."""
    with database.transaction() as session:
        # The lock keeps a pump that comes back from claiming (it takes a share lock on its row) while this goes on.
        pump = session.scalar(
            text(
                "select id from pumps where expires_at <= now() and exists (select from attempts"
                " where attempts.pump_id = pumps.id and attempts.state = 'started' and attempts.batch_id is not null)"
                " order by id limit 1 for update skip locked"
            )
        )
        if pump is None:
            return False
        rows = session.execute(
            text(
                "select batch_id, line, id, input_price, cached_input_price, output_price from attempts"
                " where pump_id = :pump and state = 'started' and batch_id is not null order by id limit :limit"
            ),
            {"pump": pump, "limit": CHUNK},
        ).all()
        results = [
            Result(
                row.batch_id, row.line, row.id, Price(row.input_price, row.cached_input_price, row.output_price), LOST
            )
            for row in rows
        ]
        settle(session, results, policy, random.Random())  # noqa: S311
        return bool(rows)


def _remove_expired_file(database: Database) -> bool:
    """Remove one file that nobody can see any more. Each is a transaction of its own: one may hold a gigabyte."""
    with database.transaction() as session:
        return files.remove_expired(session) is not None


def _stale_batches(session: Session, condition: str, after_s: float) -> list[str]:
    """Batches in a condition that were last announced a while ago; they count as announced from now on."""
    query = text(
        f"update batches set announced_at = now() where id in (select id from batches where ({condition})"  # noqa: S608
        " and announced_at <= now() - make_interval(secs => :after) order by id for no key update skip locked)"
        " returning id"
    )
    return list(session.scalars(query, {"after": after_s}))


def _stale_ranges(session: Session, after_s: float) -> list[tuple[str, int]]:
    rows = session.execute(
        text(
            "update score_ranges set announced_at = now() from batches where batches.id = score_ranges.batch_id"
            " and batches.state = 'in_progress' and coalesce(batches.paused, 'client') = 'client'"
            " and score_ranges.done_at is null"
            " and score_ranges.announced_at <= now() - make_interval(secs => :after)"
            " returning score_ranges.batch_id, score_ranges.first_line"
        ),
        {"after": after_s},
    )
    return [(row[0], row[1]) for row in rows]
