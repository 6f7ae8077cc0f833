"""The state that all pumps share, in the broker's Redis: one script call takes up a pump's reports and answers them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from routing_service.upstream.limiter import arithmetic
from routing_service.upstream.limiter.arithmetic import Reply, Report

TIMEOUT_S = 0.5  # dispatching waits for an answer
KEEP_S = 2 * int(arithmetic.MOST_HOLD_S)  # what nobody has touched for so long is forgotten
_FIXED = orjson.dumps(
    {
        "pace": arithmetic.PACE,
        "burst_s": arithmetic.BURST_S,
        "most_ahead_s": arithmetic.MOST_AHEAD_S,
        "most_hold_s": arithmetic.MOST_HOLD_S,
        "said_for_s": arithmetic.SAID_FOR_S,
        "steps": arithmetic.STEPS,
        "kept": arithmetic.KEPT,
        "keep_s": KEEP_S,
    }
)


class AwayError(Exception):
    """Redis did not answer, or not as expected."""


class SharedLimits:
    """Bound to the event loop that first uses it."""

    def __init__(self, url: str) -> None:
        """`url` as redis-py writes it: redis://, rediss:// or unix://."""
        once = Retry(NoBackoff(), 0)
        self._redis = Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=once)
        self._script = self._redis.register_script(files(__package__).joinpath("exchange.lua").read_bytes())

    @classmethod
    def of(cls, broker_url: str) -> SharedLimits | None:
        """None where the broker is no Redis."""
        url = redis_url(broker_url)
        return None if url is None else cls(url)

    async def exchange(self, reports: Mapping[str, Report], now: float | None = None) -> dict[str, Reply]:
        """Replies by model. `now` replaces the server's clock. Raises AwayError."""
        keys = [f"routebatch:limits:{model}" for model in reports]
        values = [orjson.dumps(list(reports.values())), _FIXED]
        try:
            replies = orjson.loads(await self._script(keys, values if now is None else [*values, repr(now)]))
            return {model: Reply(int(granted), *rest) for model, (granted, *rest) in zip(reports, replies, strict=True)}
        except (RedisError, OSError, TimeoutError, ValueError, TypeError) as error:
            raise AwayError(type(error).__name__) from None

    async def close(self) -> None:
        await self._redis.aclose()


def redis_url(broker_url: str) -> str | None:
    """A broker's URL, which is in Celery's form, in redis-py's; None for another kind of broker."""
    if broker_url.startswith("redis+socket://"):
        return re.sub(r"[?&]virtual_host=", "?db=", "unix://" + broker_url.removeprefix("redis+socket://"))
    return broker_url if broker_url.startswith(("redis://", "rediss://", "unix://")) else None
