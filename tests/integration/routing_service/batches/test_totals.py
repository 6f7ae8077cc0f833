"""Totals are remembered while nothing moves, refreshed as things move, and exact once the batch has ended."""

from __future__ import annotations

from sqlalchemy import select, text

from routing_service.batches.view import TotalsCache
from routing_service.db import Database
from routing_service.models import Batch, Budget
from tests.support.planned import Planned, make_planned_batch

ANSWER = """
update requests set state = 'succeeded', response = '{}', finished_at = now(), model = 'weak', reason = 'plan'
where line = :line
"""


def look(database: Database, cache: TotalsCache) -> dict[str, int]:
    with database.transaction() as session:
        batch, budget = session.scalars(select(Batch)).one(), session.scalars(select(Budget)).one()
        return cache.of(session, [(batch, budget)])[batch.id].by_model


def answer(database: Database, line: int, change: str) -> None:
    with database.transaction() as session:
        session.execute(text(ANSWER), {"line": line})
        session.execute(text(f"update batches set {change}"))


def test_totals_follow_the_batch_and_are_exact_at_its_end(database: Database) -> None:
    with database.transaction() as session:
        make_planned_batch(session, [Planned()] * 3)
    eager, frugal = TotalsCache(share=0), TotalsCache(share=1e12)
    assert look(database, eager) == look(database, frugal) == {}
    answer(database, 1, "failed = failed")
    assert look(database, eager) == {}  # no counter moved: nothing is added up
    answer(database, 2, "succeeded = 2")
    assert look(database, eager) == {"weak": 2}
    assert look(database, frugal) == {}  # added up not long ago, while the batch runs
    answer(database, 3, "succeeded = 3, state = 'completed', completed_at = now()")
    assert look(database, eager) == look(database, frugal) == {"weak": 3}
