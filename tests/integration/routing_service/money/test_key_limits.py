"""Limits of API keys as an operator changes them: set, lowered, topped up, removed; and their periods."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from migrations.runner import downgrade, revisions
from routing_service.db import Database
from routing_service.errors import InvalidRequestError, NotFoundError
from routing_service.models import Period
from routing_service.money.budgets import remove_limit, set_limit, standing, top_up
from tests.support.factories import make_key
from tests.support.key_limits import ANSWER, WEAK, Key, end_period, stands, worst_case
from tests.support.planned import NANO


def test_a_limit_below_what_is_used_lets_nothing_more_through(database: Database) -> None:
    worst = worst_case(database, WEAK)
    key = Key(database, 4 * worst)
    batch_id = key.batch([WEAK] * 9)
    tickets = key.claim(batch_id).tickets
    with database.transaction() as session:
        stood = set_limit(session, key.id, Period.DAY, worst)
    assert (stood.limit_nano, stood.left_nano, stood.lowered_to_nano) == (4 * worst, 0, worst)
    key.settle(tickets[:1])  # in full
    key.settle(tickets[1:], ANSWER)
    stood = stands(database, key.id)
    assert stood.reserved_nano == 0
    assert stood.limit_nano == stood.settled_nano
    assert key.claim(batch_id).tickets == []
    assert key.differences() == []


def test_a_lowered_limit_follows_what_is_used_down_to_it(database: Database) -> None:
    worst = worst_case(database, WEAK)
    key = Key(database, 4 * worst)
    tickets = key.claim(key.batch([WEAK] * 9)).tickets
    key.limit(Period.DAY, 2 * worst)
    key.settle(tickets, ANSWER)
    stood = stands(database, key.id)
    assert stood.limit_nano == 2 * worst
    assert stood.left_nano == 2 * worst - stood.settled_nano > 0


def test_a_top_up_raises_the_present_period_only(database: Database) -> None:
    key = Key(database, 100)
    with database.transaction() as session:
        stood = top_up(session, key.id, Period.DAY, 50)
    assert (stood.limit_nano, stood.each_nano) == (150, 100)
    end_period(database, key.id)
    assert stands(database, key.id).limit_nano == 100


def test_a_removed_limit_that_is_set_again_begins_with_nothing_used(database: Database) -> None:
    key = Key(database, NANO)
    batch_id = key.batch([WEAK] * 2)
    key.claim(batch_id, {"weak": 1, "strong": 0})
    with database.transaction() as session:
        remove_limit(session, key.id, Period.DAY)
        assert standing(session, key.id) == []
    key.claim(batch_id)
    key.limit(Period.DAY, NANO)
    assert stands(database, key.id).reserved_nano == 0
    assert key.differences() == []


def test_what_was_reserved_before_the_limit_was_set_does_not_count(database: Database) -> None:
    key = Key(database, NANO)
    batch_id = key.batch([WEAK] * 2)
    key.claim(batch_id, {"weak": 1, "strong": 0})
    key.limit(Period.MONTH, NANO)
    key.claim(batch_id)
    assert stands(database, key.id).reserved_nano == 2 * stands(database, key.id, Period.MONTH).reserved_nano
    assert key.differences() == []


def test_periods_begin_and_end_with_utc_days_and_months(database: Database) -> None:
    key = Key(database, NANO)
    with database.transaction() as session:
        session.execute(text("set local time zone 'America/New_York'"))
        set_limit(session, key.id, Period.MONTH, NANO)
        set_limit(session, key.id, Period.ALL, NANO)
        now = session.scalar(text("select now()"))
        rows = session.execute(text("select period::text, period_start from budgets"))
        starts = {row.period: row.period_start for row in rows}
        resets = {budget.period: budget.resets_at for budget in standing(session, key.id)}
    assert now is not None
    now = now.astimezone(UTC)
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    assert starts == {"day": datetime(now.year, now.month, now.day, tzinfo=UTC), "month": month, "all": None}
    assert resets[Period.MONTH] == datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    assert resets[Period.ALL] is None


def test_a_key_or_limit_that_is_not_there_is_named(database: Database) -> None:
    with database.transaction() as session:
        key_id = make_key(session).id
    with pytest.raises(NotFoundError, match="key_x"), database.transaction() as session:
        set_limit(session, "key_x", Period.DAY, 1)
    with pytest.raises(NotFoundError, match="no limit for a day"), database.transaction() as session:
        top_up(session, key_id, Period.DAY, 1)
    with pytest.raises(NotFoundError, match="no limit for a month"), database.transaction() as session:
        remove_limit(session, key_id, Period.MONTH)
    with pytest.raises(InvalidRequestError), database.transaction() as session:
        set_limit(session, key_id, Period.DAY, 10**18 + 1)


def test_limits_change_while_batches_claim_and_verify_still_knows_where_every_attempt_belongs(
    database: Database,
) -> None:
    key = Key(database, NANO)
    batches = [key.batch([WEAK] * 20) for _ in range(3)]

    def work(batch_id: str) -> int:
        taken = 0
        for _ in range(20):
            tickets = key.claim(batch_id, {"weak": 1, "strong": 0}).tickets
            key.settle(tickets, ANSWER)
            taken += len(tickets)
        return taken

    def change() -> int:
        for _ in range(8):
            for period in (Period.MONTH, Period.ALL):
                key.limit(period, NANO)
                with database.transaction() as session:
                    top_up(session, key.id, period, 1)
            for period in (Period.ALL, Period.MONTH):
                with database.transaction() as session:
                    remove_limit(session, key.id, period)
        return 0

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change)
        assert sum(pool.map(work, batches)) == 60
        changing.result()
    assert key.differences() == []
    with database.transaction() as session:
        assert session.scalar(text("select count(*) from budgets where closed_at is not null and settled_nano > 0"))


def test_the_schema_goes_down_with_budgets_of_periods_that_begin_together(
    database: Database, database_url: str
) -> None:
    key = Key(database, NANO)
    key.limit(Period.MONTH, NANO)
    with database.transaction() as session:
        session.execute(text("update budgets set period_start = '2026-11-01', resets_at = '2026-11-02'"))
    downgrade(database_url)
    assert revisions(database_url)[0] is None
