"""Batches of one key that compete for its budget, dispatched by the real pump: priority first, then fair share."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.settings import Settings
from routing_service.upstream.client import Upstreams
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.fakes import FakePublisher
from tests.support.key_limits import limited_key, pause_of
from tests.support.planned import Planned, make_planned_batch
from tests.support.upstreams.sandbox_server import Sandbox, run_sandbox

CLAIM_CHUNK = 4
WORST_NANO = 47_100  # of one of these requests
ANSWER_NANO = 36_000  # what the sandbox bills for it is 32,000 on average, and at most 39,900


def _settings(sandbox: Sandbox) -> Settings:
    dispatch = {"idle_s": 0.3, "settle_interval_ms": 10, "claim_chunk": CLAIM_CHUNK}
    models = {"strong": STRONG | {"base_url": sandbox.base_url}, "weak": WEAK | {"base_url": sandbox.base_url}}
    return make_settings(models=models, dispatch=dispatch)


def _batches(database: Database, limit_nano: int, priorities: tuple[int, int]) -> tuple[str, str]:
    """Two batches of one key, each of 80 requests for the weak model."""
    with database.transaction() as session:
        key_id = limited_key(session, limit_nano)
        made = [
            make_planned_batch(
                session,
                [Planned(ratio=0.5, prompt=f"Prompt {n}") for n in range(80)],
                key_id=key_id,
                shadow_price=1.0,
                priority=priority,
                floor_each=ANSWER_NANO,
            )
            for priority in priorities
        ]
        return made[0], made[1]


def _dispatch(database: Database, settings: Settings, pumps: int = 1) -> None:
    async def run() -> None:
        upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
        made = [Pump(database, settings, price_book(settings), upstreams, FakePublisher()) for _ in range(pumps)]
        await asyncio.gather(*(pump.run() for pump in made))
        await upstreams.close()

    asyncio.run(run())


def _settled(database: Database, batch_id: str) -> int:
    with database.transaction() as session:
        assert ledger.verify(session) == []
        row = session.execute(
            text("select reserved_nano, settled_nano from budgets where batch_id = :id"), {"id": batch_id}
        ).one()
        assert row.reserved_nano == 0
        return int(row.settled_nano)


def _answered(database: Database, batch_id: str) -> int:
    query = text("select count(*) from requests where batch_id = :id and state = 'succeeded'")
    with database.transaction() as session:
        return session.scalar(query, {"id": batch_id}) or 0


def test_batches_of_one_priority_share_their_keys_budget(database: Database) -> None:
    first, second = _batches(database, 2_000_000, (5, 5))
    with run_sandbox(latency_ms=5) as sandbox:
        _dispatch(database, _settings(sandbox), pumps=2)
    settled = [_settled(database, batch_id) for batch_id in (first, second)]
    assert 2_000_000 - WORST_NANO < sum(settled) <= 2_000_000
    assert abs(settled[0] - settled[1]) <= 3 * CLAIM_CHUNK * WORST_NANO
    for batch_id in (first, second):
        assert pause_of(database, batch_id)[0] == "key_budget"


def test_the_higher_priority_is_served_first_of_a_budget_that_is_too_small_for_both(database: Database) -> None:
    low, high = _batches(database, 2_000_000, (3, 7))
    with run_sandbox(latency_ms=5) as sandbox:
        _dispatch(database, _settings(sandbox), pumps=2)
    assert _settled(database, low) <= CLAIM_CHUNK * WORST_NANO
    assert _settled(database, high) >= 2_000_000 - 2 * CLAIM_CHUNK * WORST_NANO


def test_the_lower_priority_gets_what_the_higher_leaves(database: Database) -> None:
    low, high = _batches(database, 3_000_000, (3, 7))
    with run_sandbox(latency_ms=5) as sandbox:
        _dispatch(database, _settings(sandbox))
    assert _answered(database, high) == 80
    assert _answered(database, low) > 0
    assert _settled(database, low) + _settled(database, high) > 3_000_000 - WORST_NANO
    assert pause_of(database, low)[0] == "key_budget"
