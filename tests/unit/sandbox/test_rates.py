"""The sandbox's limits a minute: what is let through, what is refused and until when, what the headers say."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st

from sandbox.app import create_app
from sandbox.config import SandboxConfig
from sandbox.rates import MINUTE, RateLimits, SlidingMinute

CALL = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@given(st.integers(1, 6), st.lists(st.floats(0, 30), max_size=60))
def test_no_sixty_seconds_hold_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    minute, now, passed = SlidingMinute(limit), 0.0, list[float]()
    for gap in gaps:
        now += gap
        if minute.wait_s(1, now) == 0:
            minute.add(1, now)
            passed.append(now)
    assert all(sum(t <= then < t + MINUTE for t in passed) <= limit for then in passed)


def test_the_wait_ends_when_enough_has_left_the_minute() -> None:
    minute = SlidingMinute(10)
    for second, size in enumerate((4, 4, 2)):
        minute.add(size, second)
    assert minute.wait_s(1, 3.0) == 57
    assert minute.wait_s(5, 3.0) == 58
    assert minute.wait_s(99, 3.0) == 59
    assert minute.wait_s(1, 60.0) == 0


def test_tokens_count_as_billed_and_each_model_by_itself() -> None:
    limits = RateLimits(SandboxConfig(tokens_per_minute=100))
    assert limits.admit("a", b"x" * 240, 0.0) is None
    limits.bill("a", 90, 0.0)
    assert limits.admit("a", b"x" * 80, 1.0) == ("tokens", 59.0)
    assert limits.admit("a", b"x" * 40, 1.0) is None
    assert limits.admit("b", b"x" * 400, 1.0) is None
    assert limits.headers("a", 1.0) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "59000ms",
    }


def test_a_call_too_many_is_a_429_that_says_when_to_come_back_and_is_not_billed() -> None:
    async def run() -> None:
        app = create_app(SandboxConfig(latency_ms=0, requests_per_minute=1))
        async with TestClient(TestServer(app)) as client:
            async with client.post("/v1/chat/completions", json=CALL) as first:
                assert first.status == 200
                assert first.headers["x-ratelimit-remaining-requests"] == "0"
            async with client.post("/v1/chat/completions", json=CALL) as second:
                assert second.status == 429
                assert second.headers["Retry-After"] == "60"
                assert (await second.json())["error"]["code"] == "rate_limit_exceeded"
            async with client.get("/stats") as response:
                account = (await response.json())["models"]["m"]
                assert (account["calls"], account["limited"], account["billed"]) == (2, 1, 1)

    asyncio.run(run())
