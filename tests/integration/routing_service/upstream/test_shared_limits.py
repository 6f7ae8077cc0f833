"""The limits that pumps share in Redis: the rules of the pure ones, one state for all pumps, and life without Redis.

The last tests run several pumps against an upstream that counts its calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from deploy.servers import run_valkey
from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.models import AttemptState, EntryBasis
from routing_service.money.pricing import price_book
from routing_service.settings import ModelSettings, Settings
from routing_service.upstream.client import Upstreams
from routing_service.upstream.limiter import Limiter, Share, SharedLimits, redis_url
from routing_service.upstream.limiter.arithmetic import Report, State, exchange
from routing_service.upstream.limiter.shared import AwayError
from routing_service.upstream.outcome import Outcome
from tests.support.examples import examples
from tests.support.factories import STRONG, WEAK, make_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch
from tests.support.upstreams.sandbox_server import run_sandbox

START = 1_790_000_000.0
ALONE = Share(1, 0)
SLOW = 1  # a minute: no test takes so long that another call is earned
ANSWERED = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200)
REFUSED = Outcome(AttemptState.REFUSED, EntryBasis.UNBILLED, status_code=429, retry=True, retry_after_s=20)


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(autouse=True)
def _empty(broker_url: str) -> None:
    flush(broker_url)


def flush(broker_url: str) -> None:
    with redis.Redis.from_url(str(redis_url(broker_url))) as broker:
        broker.flushall()


def with_limits(broker_url: str, work: Callable[[SharedLimits], Awaitable[None]]) -> None:
    async def run() -> None:
        shared = SharedLimits.of(broker_url)
        assert shared is not None
        try:
            await work(shared)
        finally:
            await shared.close()

    asyncio.run(run())


def model(**options: object) -> dict[str, ModelSettings]:
    return {"weak": ModelSettings.model_validate(WEAK | options)}


def limiter(shared: SharedLimits | None, clock: Callable[[], float] = lambda: 0.0, **options: object) -> Limiter:
    """Of a pump that has had its first answer."""
    made = Limiter(model(**options), shared, clock)
    made.ended("weak", ANSWERED, 0.0, 0.1)
    return made


async def granted(limiter: Limiter, share: Share = ALONE) -> int:
    await limiter.refresh(share, {"weak": 0}, 64)
    return limiter.free("weak", share, 0)


REPORTS = st.builds(
    Report,
    ceiling=st.sampled_from([1, 8, 128]),
    requests_per_minute=st.sampled_from([0, 3, 600, 6000]),
    tokens_per_minute=st.sampled_from([0, 90_000]),
    want=st.integers(0, 64),
    give_back=st.integers(0, 5),
    call_tokens=st.floats(1, 2000),
    more_tokens=st.floats(-2000, 5000),
    hold_s=st.sampled_from([0, 0, 0, 0.5, 20]),
    fine=st.integers(0, 50),
    congested=st.sampled_from([0, 0, 1, 20]),
    in_flight=st.integers(1, 500),
    window_s=st.sampled_from([1, 7.5]),
    said_requests=st.sampled_from([0, 0, 400]),
    said_tokens=st.sampled_from([0, 0, 50_000]),
)


@examples(60)
@given(steps=st.lists(st.tuples(st.floats(0, 15), REPORTS), min_size=1, max_size=15))
def test_redis_keeps_to_the_pure_rules(broker_url: str, steps: list[tuple[float, Report]]) -> None:
    flush(broker_url)
    state: State = {}

    async def work(shared: SharedLimits) -> None:
        now = START
        for gap, report in steps:
            now += gap
            reply = (await shared.exchange({"weak": report}, now))["weak"]
            expected = exchange(state, report, now)
            assert reply.granted == expected.granted
            for name in ("wait_s", "held_s", "limit", "requests_per_minute", "tokens_per_minute"):
                assert getattr(reply, name) == pytest.approx(getattr(expected, name), abs=1e-5, rel=1e-9), name

    with_limits(broker_url, work)


def test_models_are_counted_apart_and_calm_ones_leave_nothing_behind(broker_url: str) -> None:
    async def work(shared: SharedLimits) -> None:
        reports = {"calm": Report(ceiling=8, want=5, fine=9), "rated": Report(8, requests_per_minute=600, want=64)}
        replies = await shared.exchange(reports, START)
        assert (replies["calm"].granted, replies["rated"].granted) == (5, 5)
        with redis.Redis.from_url(str(redis_url(broker_url))) as broker:
            assert broker.keys("*") == [b"routebatch:limits:rated"]

    with_limits(broker_url, work)


def test_pumps_share_one_rate(broker_url: str) -> None:
    async def work(shared: SharedLimits) -> None:
        pumps = [limiter(shared, requests_per_minute=SLOW) for _ in range(4)]
        assert [await granted(pump, Share(4, n)) for n, pump in enumerate(pumps)] == [1, 0, 0, 0]

    with_limits(broker_url, work)


def test_429s_of_one_pump_stop_the_model_in_all_and_slow_it_down(broker_url: str) -> None:
    async def work(shared: SharedLimits) -> None:
        first, second = limiter(shared), limiter(shared)
        for _ in range(3):
            first.ended("weak", REFUSED, 0.0, 0.1)
        assert await granted(first) == 0
        assert await granted(second) == 0
        reply = (await shared.exchange({"weak": Report(ceiling=128)}))["weak"]
        assert reply.limit < 128
        assert reply.held_s == pytest.approx(20, abs=1)

    with_limits(broker_url, work)


def test_an_emptied_redis_costs_a_burst_at_most(broker_url: str) -> None:
    async def work(shared: SharedLimits) -> None:
        assert await granted(limiter(shared, requests_per_minute=SLOW)) == 1
        with redis.Redis.from_url(str(redis_url(broker_url))) as broker:
            broker.flushall()
            broker.script_flush()
        assert await granted(limiter(shared, requests_per_minute=SLOW)) == 1

    with_limits(broker_url, work)


def test_without_redis_each_pump_keeps_to_its_part_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        shared = SharedLimits.of(f"redis+socket://{tmp_path}/nobody.sock")
        now = 0.0
        pump = limiter(shared, lambda: now, requests_per_minute=2400)
        quarter = Share(4, 0)
        assert await granted(pump, quarter) == 5
        taken = 0
        for tenth in range(100):
            now = tenth / 10
            free = await granted(pump, quarter)
            for _ in range(free):
                pump.sent("weak", 100, 1)
            taken += free
        assert 90 <= taken <= 110

    asyncio.run(work())
    assert [record.message for record in caplog.records] == [
        "rate limits cannot be shared (ConnectionError): each pump keeps to its part of them"
    ]


def test_pumps_share_again_when_redis_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with run_valkey(tmp_path) as url:
        shared = SharedLimits.of(url)
        pump = limiter(shared, lambda: now, requests_per_minute=SLOW)

    async def away() -> None:
        assert await granted(pump) == 1
        with pytest.raises(AwayError):
            await shared.exchange({})  # type: ignore[union-attr]

    asyncio.run(away())
    with run_valkey(tmp_path):
        now = 6.0
        with asyncio.Runner() as runner:
            assert runner.run(granted(pump)) == 1
            assert runner.run(granted(limiter(shared, lambda: now, requests_per_minute=SLOW))) == 0
            runner.run(shared.close())  # type: ignore[union-attr]
    assert caplog.records[-1].message == "rate limits are shared again"


def test_a_broker_that_is_no_redis_shares_nothing() -> None:
    assert SharedLimits.of("amqp://localhost") is None


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
