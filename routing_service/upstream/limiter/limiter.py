"""What a pump asks before it claims: how many calls of each model it may add now.

Most models are calm: no rate is in force and no upstream complained. Of these nothing is asked but once a second
whether another pump has met with trouble. Where a rate is in force permits are asked for before each claim and given
back by the next report if they were not used. Redis away: each pump goes by its own state, with its part of the rates.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from routing_service.settings import ModelSettings
from routing_service.upstream.limiter import arithmetic
from routing_service.upstream.limiter.arithmetic import Reply, Report, State
from routing_service.upstream.limiter.pace import Pace
from routing_service.upstream.limiter.shared import AwayError
from routing_service.upstream.outcome import Outcome

log = logging.getLogger(__name__)
LOOK_S = 1.0  # between looks at calm models
REPORT_S = 0.1  # between reports on others: a claim chunk is worth its claim
AWAY_S = 5.0  # before Redis is tried again


@dataclass(frozen=True, slots=True)
class Share:
    """This pump among those with a live lease: `pumps` of them, `rank` from 0."""

    pumps: int
    rank: int

    def of(self, limit: float) -> int:
        """Its part of a number of calls; the parts of all add up to the whole."""
        part, rest = divmod(int(limit), max(1, self.pumps))
        return part + (self.rank < rest)


class Shared(Protocol):
    """The state of all pumps: Redis (SharedLimits), or what a test puts in its place."""

    async def exchange(self, reports: Mapping[str, Report]) -> dict[str, Reply]: ...


class Limiter:
    """Kept for the life of a process. `shared` None: pumps do not know of each other but for their number."""

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        shared: Shared | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._shared, self._clock = shared, clock
        self._rng = rng or random.Random()  # noqa: S311
        self._paces = {name: Pace(name, model) for name, model in models.items()}
        self._own: dict[str, State] = {name: {} for name in models}  # for when Redis is away
        self._away_until = 0.0  # 0: it is there
        self._look_at = 0.0

    async def refresh(self, share: Share, in_flight: Mapping[str, int], most: int) -> None:
        """Report and ask, where that is due; `most`: calls that the pump could add of any model."""
        now = self._clock()
        wants = {
            name: min(most, pace.room(share.of(pace.limit), in_flight[name], now)) if pace.asks(now) else 0
            for name, pace in self._paces.items()
        }
        troubled = any(pace.troubled for pace in self._paces.values())
        if not troubled and not any(wants.values()) and now < self._look_at:
            return
        reports = {
            name: pace.report(wants[name], in_flight[name], share.pumps, now) for name, pace in self._paces.items()
        }
        replies = await self._ask_all(reports) or self._ask_myself(reports, share.pumps, now)
        for name, pace in self._paces.items():
            pace.take(replies[name], wants[name], now, self._rng.random())
        self._look_at = now + (LOOK_S if all(pace.calm for pace in self._paces.values()) else REPORT_S)

    def free(self, model: str, share: Share, in_flight: int) -> int:
        """Calls of `model` that this pump may add now."""
        pace = self._paces[model]
        room = pace.room(share.of(pace.limit), in_flight, self._clock())
        return min(room, pace.permits) if pace.rated else room

    def sent(self, model: str, body_bytes: int, in_flight: int) -> float:
        """One of the calls that `free` allowed is made; returns its expected tokens, for `ended`."""
        return self._paces[model].sent(body_bytes, in_flight)

    def ended(self, model: str, outcome: Outcome, tokens: float, seconds: float) -> None:
        """What became of that call, after so many seconds."""
        self._paces[model].ended(outcome, tokens, seconds, self._clock())

    async def _ask_all(self, reports: Mapping[str, Report]) -> dict[str, Reply] | None:
        """Replies from the state that all pumps share; None while that is out of reach."""
        if self._shared is None or self._clock() < self._away_until:
            return None
        try:
            replies = await self._shared.exchange(reports)
        except AwayError as error:
            if not self._away_until:
                log.warning("rate limits cannot be shared (%s): each pump keeps to its part of them", error)
            self._away_until = self._clock() + AWAY_S
            return None
        if self._away_until:
            log.warning("rate limits are shared again")
            self._away_until = 0.0
        return replies

    def _ask_myself(self, reports: Mapping[str, Report], pumps: int, now: float) -> dict[str, Reply]:
        """Replies from this pump's own state, by its part of the rates."""
        replies = {}
        for name, whole in reports.items():
            reply = arithmetic.exchange(self._own[name], _with_rates(whole, 1 / pumps), now)
            replies[name] = replace(
                reply,
                requests_per_minute=reply.requests_per_minute * pumps,
                tokens_per_minute=reply.tokens_per_minute * pumps,
            )
        return replies


def _with_rates(report: Report, times: float) -> Report:
    return replace(
        report,
        requests_per_minute=report.requests_per_minute * times,
        tokens_per_minute=report.tokens_per_minute * times,
        said_requests=report.said_requests * times,
        said_tokens=report.said_tokens * times,
    )
