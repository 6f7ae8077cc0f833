"""However many requests of a batch have ended, dispatching the rest of it reads few rows."""

from __future__ import annotations

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import claim
from routing_service.dispatch.fairness import runnable_batches
from routing_service.money.pricing import price_book
from tests.support.factories import make_settings
from tests.support.planned import Planned, make_planned_batch

LINES, LEFT = 5000, 20
SLOTS = {"weak": 8, "strong": 8}


def nearly_done(database: Database) -> str:
    """The id of a batch of which only cheap lines are left; the planner's statistics are of when all of them waited."""
    columns = "batch_id, custom_id, body, input_bytes, state, floor_nano"
    with database.transaction() as session:
        batch_id = make_planned_batch(session, [Planned(ratio=0.0)], shadow_price=0.5)
        session.flush()
        session.execute(
            text(
                f"insert into requests (line, ratio, {columns}) select g, g / cast(:n as float8), batch_id, 'r' || g,"
                f" {columns.partition('custom_id, ')[2]} from requests, generate_series(2, :n) g"
            ),
            {"n": LINES},
        )
        session.execute(text("update batches set total = :n, reserve_ratio = 1e-9, reserve_line = 1"), {"n": LINES})
        session.execute(text("analyze requests"))
    with database.transaction() as session:
        session.execute(
            text("update requests set state = 'succeeded', finished_at = now(), response = '{}' where line > :left"),
            {"left": LEFT},
        )
    with database.transaction() as session:  # the index forgets them, as it does while they end one after the other
        session.execute(text("set local enable_seqscan = off"))
        session.execute(text("select count(*) from requests where state = 'scored' and ratio >= 0"))
    return batch_id


def rows_read(database: Database) -> int:
    """Of `requests`, by the transactions until now; they took the same connection of the pool."""
    with database.transaction() as session:
        session.execute(text("select pg_stat_force_next_flush()"))
    with database.transaction() as session:
        query = text("select idx_tup_fetch + seq_tup_read from pg_stat_user_tables where relname = 'requests'")
        return int(session.scalar(query) or 0)


def test_listing_batches_reads_few_rows(database: Database) -> None:
    batch_id = nearly_done(database)
    before = rows_read(database)
    (batch,) = runnable_batches(database)
    assert (batch.batch_id, batch.due) == (batch_id, True)
    assert rows_read(database) - before < 100


def test_a_claim_that_looks_for_dear_lines_in_vain_reads_few_rows(database: Database) -> None:
    batch_id = nearly_done(database)
    held = lease.open_lease(database, 30)
    settings = make_settings()
    before = rows_read(database)
    with database.transaction() as session:
        got = claim(session, settings, price_book(settings), held.pump_id, batch_id, SLOTS)
    assert len(got.tickets) == 8
    assert rows_read(database) - before < 100
