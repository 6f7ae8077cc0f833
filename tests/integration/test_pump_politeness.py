"""Pumps that share their limits in a real Redis, against an upstream that counts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from deploy.servers import run_valkey
from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.money.pricing import price_book
from routing_service.settings import Settings
from routing_service.upstream.client import Upstreams
from routing_service.upstream.limiter import Limiter, SharedLimits
from tests.factories import STRONG, WEAK, make_settings
from tests.fakes import FakePublisher
from tests.planned import Planned, make_planned_batch
from tests.sandbox_server import run_sandbox

RATE = 1200  # a minute
EARNED_S = 60 / RATE


def _dispatch(database: Database, settings: Settings, pumps: int) -> float:
    """Dispatch all there is by several pumps; seconds until the last has nothing left."""

    async def pump() -> None:
        upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
        shared = SharedLimits.of(settings.broker_url.get_secret_value())
        assert shared is not None
        limiter = Limiter(settings.models, shared)
        await Pump(database, settings, price_book(settings), upstreams, FakePublisher(), limiter=limiter).run()
        await upstreams.close()
        await shared.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(pump() for _ in range(pumps)))

    started = time.monotonic()
    asyncio.run(all_of_them())
    return time.monotonic() - started


@pytest.mark.parametrize("configured", [RATE, None])
def test_pumps_together_keep_to_a_rate_that_is_configured_or_told(
    database: Database, tmp_path: Path, configured: int | None
) -> None:
    with database.transaction() as session:
        make_planned_batch(session, [Planned(prompt=f"Prompt {n}") for n in range(60)])
    told = None if configured else RATE
    with run_valkey(tmp_path) as broker, run_sandbox(latency_ms=2, requests_per_minute=told) as sandbox:
        limits = {"base_url": sandbox.base_url, "requests_per_minute": configured}
        settings = make_settings(
            models={"strong": STRONG | limits, "weak": WEAK | limits},
            dispatch={"idle_s": 0, "settle_interval_ms": 20},
            broker_url=broker,
        )
        took = _dispatch(database, settings, pumps=2)
        calls = sandbox.stats()["models"]["sandbox-strong"]["calls"]
    with database.transaction() as session:
        assert session.scalar(text("select count(*) from requests where state = 'succeeded'")) == 60
    assert calls == 60
    first = 0 if configured else 8  # of both pumps, before an answer has told the limit
    burst = RATE / 60 * 0.5 + 1
    assert took >= (60 - burst - first) * EARNED_S
