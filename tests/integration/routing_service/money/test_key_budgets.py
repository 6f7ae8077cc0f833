"""Budgets of API keys: what they let through, when a batch waits for them, and what verify sees of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text

from routing_service.db import Database
from routing_service.models import Period
from routing_service.money.budgets import remove_limit, set_limit, top_up
from tests.support.key_limits import ANSWER, STRONG, WEAK, Key, end_period, pause_of, stands, worst_case
from tests.support.planned import NANO


def test_a_claim_reserves_on_the_batch_and_on_every_budget_of_its_key(database: Database) -> None:
    key = Key(database, NANO)
    key.limit(Period.MONTH, 2 * NANO)
    key.limit(Period.ALL, 3 * NANO)
    batch_id = key.batch([STRONG])
    (ticket,) = key.claim(batch_id).tickets
    assert [stands(database, key.id, period).reserved_nano for period in Period] == [ticket.reserved_nano] * 3
    key.settle([ticket], ANSWER)
    with database.transaction() as session:
        settled = session.scalar(text("select settled_nano from budgets where batch_id = :id"), {"id": batch_id})
    for period in Period:
        stood = stands(database, key.id, period)
        assert (stood.reserved_nano, stood.settled_nano) == (0, settled)
    assert key.differences() == []


def test_the_least_of_the_budgets_decides(database: Database) -> None:
    worst = worst_case(database, WEAK)
    key = Key(database, 10 * worst)
    key.limit(Period.MONTH, 2 * worst)
    key.limit(Period.ALL, 5 * worst)
    assert len(key.claim(key.batch([WEAK] * 9)).tickets) == 2


def test_what_does_not_fit_waits_while_the_keys_money_is_in_flight_then_pauses(database: Database) -> None:
    worst = worst_case(database, STRONG)
    key = Key(database, worst)
    batch_id = key.batch([STRONG] * 3)
    first = key.claim(batch_id)
    assert (len(first.tickets), first.waiting) == (1, True)
    again = key.claim(batch_id)
    assert (again.tickets, again.waiting, pause_of(database, batch_id)[0]) == ([], True, None)
    key.settle(first.tickets)
    assert key.claim(batch_id).tickets == []
    paused, reason = pause_of(database, batch_id)
    assert paused == "key_budget"
    resets = stands(database, key.id).resets_at
    assert resets is not None
    assert f"for the day, {worst / NANO} USD, does not cover" in reason
    assert f"{resets:%Y-%m-%d} 00:00 UTC" in reason
    assert key.differences() == []


def test_a_keys_budget_neither_downgrades_nor_ends_a_request(database: Database) -> None:
    key = Key(database, worst_case(database, WEAK))
    batch_id = key.batch([STRONG])
    assert key.claim(batch_id).tickets == []
    assert pause_of(database, batch_id)[0] == "key_budget"
    with database.transaction() as session:
        assert session.scalar(text("select state from requests where batch_id = :id"), {"id": batch_id}) == "scored"


def test_what_fits_goes_on_while_the_dearer_waits(database: Database) -> None:
    key = Key(database, worst_case(database, WEAK))
    batch_id = key.batch([STRONG, WEAK])
    assert [ticket.model for ticket in key.claim(batch_id).tickets] == ["weak"]
    assert pause_of(database, batch_id)[0] is None


def test_a_batch_is_not_paused_for_its_key_while_cheap_requests_only_wait_for_a_slot(database: Database) -> None:
    key = Key(database, worst_case(database, WEAK))
    batch_id = key.batch([STRONG, WEAK])
    assert key.claim(batch_id, {"weak": 0, "strong": 100}).waiting
    assert pause_of(database, batch_id)[0] is None


def test_a_paused_batch_goes_on_in_the_next_period(database: Database) -> None:
    worst = worst_case(database, STRONG)
    key = Key(database, worst)
    batch_id = key.batch([STRONG] * 2)
    spent = key.claim(batch_id).tickets
    key.settle(spent, ANSWER)
    key.claim(batch_id)
    key.sweep()
    assert pause_of(database, batch_id)[0] == "key_budget"
    end_period(database, key.id)
    key.sweep()
    assert pause_of(database, batch_id) == (None, "")
    assert len(key.claim(batch_id).tickets) == 1
    assert stands(database, key.id).settled_nano == 0
    assert key.differences() == []


@pytest.mark.parametrize("change", ["set", "top_up", "remove"])
def test_a_paused_batch_goes_on_when_the_limit_is_raised_or_removed(database: Database, change: str) -> None:
    worst = worst_case(database, STRONG)
    key = Key(database, worst - 1)
    batch_id = key.batch([STRONG])
    key.claim(batch_id)
    assert "goes on when that budget is raised." in pause_of(database, batch_id)[1]
    with database.transaction() as session:
        if change == "set":
            set_limit(session, key.id, Period.DAY, worst)
        elif change == "top_up":
            top_up(session, key.id, Period.DAY, 1)
        else:
            remove_limit(session, key.id, Period.DAY)
    key.sweep()
    assert pause_of(database, batch_id)[0] is None
    assert len(key.claim(batch_id).tickets) == 1
    assert key.differences() == []


def test_an_entry_stays_with_the_period_it_was_reserved_in(database: Database) -> None:
    key = Key(database, NANO)
    batch_id = key.batch([STRONG] * 2)
    tickets = key.claim(batch_id).tickets
    end_period(database, key.id)
    key.settle(tickets)
    assert stands(database, key.id).settled_nano == 0
    with database.transaction() as session:
        old = session.scalar(text("select settled_nano from budgets where kind = 'key' order by id limit 1"))
    assert old == sum(ticket.reserved_nano for ticket in tickets)
    assert key.differences() == []


def test_verify_names_attempts_on_the_wrong_budget_and_attempts_that_lack_one(database: Database) -> None:
    key = Key(database, NANO)
    (ticket,) = key.claim(key.batch([WEAK])).tickets
    day = stands(database, key.id)
    with database.transaction() as session:
        session.execute(text("update budgets set opened_at = opened_at + interval '1 hour' where kind = 'key'"))
    (actual,) = key.differences()
    assert (actual.what, actual.stored, actual.recomputed) == (
        f"attempt {ticket.attempt_id} on its key's budget",
        day.reserved_nano,
        0,
    )
    key.limit(Period.MONTH, NANO)
    with database.transaction() as session:
        session.execute(text("update budgets set opened_at = period_start where kind = 'key'"))
    (actual,) = key.differences()
    assert (actual.stored, actual.recomputed) == (0, day.reserved_nano)


def test_batches_of_one_key_claim_at_once_without_deadlock_and_stay_under_every_limit(database: Database) -> None:
    """Each begins the periods anew, since nothing has drawn on them; budgets of batches lie on both sides by id."""
    worst = worst_case(database, WEAK)
    key = Key(database, 35 * worst)
    batches = [key.batch([WEAK] * 10) for _ in range(3)]
    key.limit(Period.MONTH, 45 * worst)
    batches += [key.batch([WEAK] * 10) for _ in range(3)]
    end_period(database, key.id)

    def work(batch_id: str) -> int:
        taken = 0
        for _ in range(10):
            tickets = key.claim(batch_id, {"weak": 2, "strong": 0}).tickets
            key.settle(tickets)
            taken += len(tickets)
        return taken

    with ThreadPoolExecutor(6) as pool:
        taken = sum(pool.map(work, batches))
    assert taken == 35
    day = stands(database, key.id)
    assert (day.settled_nano, day.left_nano) == (35 * worst, 0)
    assert key.differences() == []


def test_a_key_without_limits_costs_a_claim_no_statement(database: Database) -> None:
    key = Key(database, NANO)
    batch_id = key.batch([WEAK] * 2)
    statements: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _count(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    def counted() -> int:
        statements.clear()
        assert len(key.claim(batch_id, {"weak": 1, "strong": 0}).tickets) == 1
        return len(statements)

    limited = counted()
    with database.transaction() as session:
        remove_limit(session, key.id, Period.DAY)
    assert counted() == limited - 1  # which asks for batches of a higher priority


def test_a_lower_priority_leaves_what_a_higher_one_is_expected_to_need(database: Database) -> None:
    worst = worst_case(database, WEAK)
    key = Key(database, 5 * worst)
    high = key.batch([STRONG, WEAK], priority=7, floor_each=2 * worst)
    low = key.batch([WEAK] * 5, priority=3)
    got = key.claim(low)
    assert (len(got.tickets), got.waiting) == (1, True)
    key.settle(got.tickets)
    assert (key.claim(low).tickets, pause_of(database, low)[0]) == ([], None)
    with database.transaction() as session:
        session.execute(text("update batches set paused = 'budget' where id = :id"), {"id": high})
    assert len(key.claim(low).tickets) == 4
