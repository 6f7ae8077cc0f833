"""The ledger on a real Postgres: every call is paid in two phases, once, and never over the limit.

The last tests let eight processes use the same budgets: no deadlock, no limit passed, and sums that are exact.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.models import Attempt, Budget, EntryBasis
from routing_service.money import ledger
from tests.support.chaos.contention import WORST_NANO, contend, make_contest
from tests.support.examples import examples
from tests.support.planned import Planned, make_planned_batch


def _budget(session: Session, limit: int) -> int:
    batch_id = make_planned_batch(session, [Planned()], budget_nano=limit)
    budget_id = session.scalar(text("select id from budgets where batch_id = :id"), {"id": batch_id})
    assert budget_id is not None
    return int(budget_id)


def _attempt(session: Session, reserved: int) -> int:
    attempt = Attempt(
        number=1,
        model="weak",
        upstream_model="w",
        input_price=1,
        cached_input_price=1,
        output_price=1,
        reserved_nano=reserved,
    )
    session.add(attempt)
    session.flush()
    return attempt.id


def _reserve(session: Session, budget_ids: list[int], amount: int) -> int:
    attempt_id = _attempt(session, amount)
    ledger.lock_budgets(session, budget_ids)
    ledger.reserve(session, budget_ids, [(attempt_id, amount)])
    return attempt_id


def _close(session: Session, closing: ledger.Closing) -> dict[int, int]:
    """Close an attempt as settling does: the attempt's row, then the ledger."""
    costs = ledger.close(session, [closing])
    state = "refused" if closing.basis is EntryBasis.UNBILLED else "succeeded"
    session.execute(
        text(
            "update attempts set state = cast(:s as attempt_state), ended_at = now(), cost_nano = cost_nano + :c"
            " where id = :id"
        ),
        {"s": state, "c": costs.get(closing.attempt_id, 0), "id": closing.attempt_id},
    )
    return costs


def _balance(session: Session, budget_id: int) -> tuple[int, int, int]:
    row = session.get_one(Budget, budget_id, populate_existing=True)
    return row.reserved_nano, row.settled_nano, row.overrun_nano


def test_settling_moves_the_cost_and_frees_the_rest(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        attempt = _reserve(session, [budget], 400)
        assert _balance(session, budget) == (400, 0, 0)
        assert _close(session, ledger.Closing(attempt, EntryBasis.USAGE, 150)) == {attempt: 150}
        assert _balance(session, budget) == (0, 150, 0)


def test_a_second_settle_changes_nothing(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        attempt = _reserve(session, [budget], 400)
        _close(session, ledger.Closing(attempt, EntryBasis.USAGE, 150))
        assert ledger.close(session, [ledger.Closing(attempt, EntryBasis.UNKNOWN, None)]) == {}
        assert _balance(session, budget) == (0, 150, 0)


def test_a_release_costs_nothing(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        attempt = _reserve(session, [budget], 400)
        assert _close(session, ledger.Closing(attempt, EntryBasis.UNBILLED, None)) == {attempt: 0}
        assert _balance(session, budget) == (0, 0, 0)


def test_unknown_outcomes_are_settled_in_full(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        attempt = _reserve(session, [budget], 400)
        _close(session, ledger.Closing(attempt, EntryBasis.UNKNOWN, None))
        assert _balance(session, budget) == (0, 400, 0)


def test_a_bill_above_the_limit_becomes_an_overrun(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        first, second = _reserve(session, [budget], 400), _reserve(session, [budget], 500)
        assert _close(session, ledger.Closing(first, EntryBasis.USAGE, 700)) == {first: 700}
        assert _balance(session, budget) == (500, 500, 200)
        _close(session, ledger.Closing(second, EntryBasis.USAGE, 500))
        assert _balance(session, budget) == (0, 1000, 200)


def test_several_budgets_are_taken_together(database: Database) -> None:
    with database.transaction() as session:
        budgets = [_budget(session, 1000), _budget(session, 5000)]
        attempt = _reserve(session, budgets, 400)
        _close(session, ledger.Closing(attempt, EntryBasis.USAGE, 100))
        assert [_balance(session, b) for b in budgets] == [(0, 100, 0), (0, 100, 0)]


def test_the_database_refuses_a_reservation_over_the_limit(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
    with pytest.raises(IntegrityError, match="ceiling"), database.transaction() as session:
        _reserve(session, [budget], 1001)


def test_verify_names_a_balance_that_was_tampered_with(database: Database) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        _reserve(session, [budget], 400)
        assert ledger.verify(session) == []
        session.execute(text("update budgets set reserved_nano = 399 where id = :id"), {"id": budget})
        assert ledger.verify(session) == [ledger.Difference(budget, "reserved", 399, 400)]


def test_concurrent_reservations_stay_under_the_limit(database: Database) -> None:
    with database.transaction() as session:
        budgets = [_budget(session, 10_000), _budget(session, 7_000)]

    def take(number: int) -> bool:
        order = budgets if number % 2 else budgets[::-1]
        with database.transaction() as session:
            balances = ledger.lock_budgets(session, order)
            if min(b.headroom for b in balances) < 100:
                return False
            attempt = _attempt(session, 100)
            ledger.reserve(session, order, [(attempt, 100)])
        with database.transaction() as session:
            _close(session, ledger.Closing(attempt, EntryBasis.USAGE, 90))
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(take, range(120)))
    with database.transaction() as session:
        assert _balance(session, budgets[1]) == (0, 90 * taken, 0)
        assert 7_000 - 90 * taken < 100 + 90
        assert [d for d in ledger.verify(session) if "requests" not in d.what] == []


@examples(25)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from(list(EntryBasis)[1:]), st.integers(0, 400), st.booleans()),
        max_size=12,
    )
)
def test_any_history_keeps_the_ceiling_and_verifies(
    database: Database, steps: list[tuple[int, EntryBasis, int, bool]]
) -> None:
    with database.transaction() as session:
        budget = _budget(session, 1000)
        for amount, basis, cost, closes in steps:
            (balance,) = ledger.lock_budgets(session, [budget])
            if amount > balance.headroom:
                continue
            attempt = _reserve(session, [budget], amount)
            if closes:
                _close(session, ledger.Closing(attempt, basis, cost if basis is EntryBasis.USAGE else None))
            reserved, settled, _ = _balance(session, budget)
            assert reserved + settled <= 1000
        assert [d for d in ledger.verify(session) if "requests" not in d.what] == []


LINES, BATCHES = 500, 4


def test_eight_processes_use_a_shared_budget_up_and_never_pass_it(database: Database, database_url: str) -> None:
    """The batches' limits let more through than the shared one does: it binds first, then nothing fits any more."""
    contest = make_contest(
        database, database_url, batches=BATCHES, lines=LINES, batch_limit=50_000, shared_limit=150_000, seed=1
    )
    parts = contend(contest, processes=8)
    reserved = sum(part.reserved for part in parts)
    refused = sum(part.refused for part in parts)
    assert reserved + refused == LINES * BATCHES
    assert refused
    with database.transaction() as session:
        (shared,) = ledger.lock_budgets(session, [contest.shared_id])
        assert shared.limit - WORST_NANO[1] < shared.settled <= shared.limit
        balances = ledger.lock_budgets(session, [account.budget_id for account in contest.accounts])
        charged = session.scalars(text("select sum(settled_nano + overrun_nano) from budgets group by kind")).all()
        assert charged[0] == charged[1]
        assert all(balance.reserved == 0 <= balance.headroom for balance in (shared, *balances))
        assert session.scalar(text("select count(*) from ledger_entries where kind = 'reserve'")) == 2 * reserved
        assert session.scalar(text("select count(*) from ledger_entries where kind <> 'reserve'")) == 2 * reserved
        assert ledger.verify(session) == []
