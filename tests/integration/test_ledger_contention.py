"""Eight processes on the same budgets: no deadlock, nothing above a limit, and sums that hold to the last."""

from __future__ import annotations

from sqlalchemy import text

from routing_service.db import Database
from routing_service.money import ledger
from tests.contending import WORST_NANO, contend, make_contest

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
