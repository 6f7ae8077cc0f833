"""Rate limits as a provider has them: requests and tokens a minute, of each model, told in `x-ratelimit-*` headers.

The minute slides: at no time were more than the limit let through in the sixty seconds before. A call that does not fit
is refused with 429 and not billed. Tokens count as they are billed; a call is let through if its input still fits.
"""

from __future__ import annotations

from collections import deque
from math import ceil

from sandbox.config import SandboxConfig
from sandbox.wire import count_tokens

MINUTE = 60.0


class SlidingMinute:
    """What one limit let through in the last sixty seconds. Times are seconds of any one clock that never goes back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._passed: deque[tuple[float, int]] = deque()
        self._used = 0

    def used(self, now: float) -> int:
        while self._passed and self._passed[0][0] + MINUTE <= now:
            self._used -= self._passed.popleft()[1]
        return self._used

    def add(self, size: int, now: float) -> None:
        self._passed.append((now, size))
        self._used += size

    def wait_s(self, size: int, now: float) -> float:
        """Seconds until `size` more fits; what is larger than the limit itself fits into an empty minute."""
        excess = self.used(now) + min(size, self.limit) - self.limit
        wait = 0.0
        for then, passed in self._passed:
            if excess <= 0:
                break
            excess -= passed
            wait = then + MINUTE - now
        return wait

    def reset_s(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        return self._passed[-1][0] + MINUTE - now if self.used(now) else 0.0


class RateLimits:
    """The limits of every model, each its own; none where the configuration names none."""

    def __init__(self, config: SandboxConfig) -> None:
        limits = {"requests": config.requests_per_minute, "tokens": config.tokens_per_minute}
        self._limits = {what: limit for what, limit in limits.items() if limit is not None}
        self._minutes: dict[str, dict[str, SlidingMinute]] = {}

    def _of(self, model: str) -> dict[str, SlidingMinute]:
        if model not in self._minutes:
            self._minutes[model] = {what: SlidingMinute(limit) for what, limit in self._limits.items()}
        return self._minutes[model]

    def admit(self, model: str, messages: bytes, now: float) -> tuple[str, float] | None:
        """None for a call that is let through, and counts from then on; else the limit that refuses it and seconds."""
        if not self._limits:
            return None
        minutes = self._of(model)
        sizes = {"requests": 1, "tokens": count_tokens(messages)}
        waits = {what: minute.wait_s(sizes[what], now) for what, minute in minutes.items()}
        worst = max(waits, key=waits.__getitem__, default=None)
        if worst is not None and waits[worst] > 0:
            return worst, waits[worst]
        if "requests" in minutes:
            minutes["requests"].add(1, now)
        return None

    def bill(self, model: str, tokens: int, now: float) -> None:
        """Count the tokens of a call that was let through."""
        minutes = self._of(model)
        if "tokens" in minutes:
            minutes["tokens"].add(tokens, now)

    def headers(self, model: str, now: float) -> dict[str, str]:
        """OpenAI's headers: of each limit itself, what is left of it, and when nothing counts any more."""
        headers = {}
        for what, minute in self._of(model).items():
            headers[f"x-ratelimit-limit-{what}"] = str(minute.limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(max(0, minute.limit - minute.used(now)))
            headers[f"x-ratelimit-reset-{what}"] = f"{ceil(minute.reset_s(now) * 1000)}ms"
        return headers


def refusal_headers(wait_s: float) -> dict[str, str]:
    return {"Retry-After": str(ceil(wait_s)), "retry-after-ms": str(ceil(wait_s * 1000))}
