"""The limiter's rules for one model, as a pure step: state, report and time give a new state and a reply.

exchange.lua is the same step inside Redis, on the state that all pumps share; here it is what a pump does by itself
when Redis is away. A test holds one against the other. All times are seconds.

Rates: the generic cell rate algorithm (GCRA). `requests_at` is the time at which all that was granted is earned; a
grant may run ahead of it by BURST_S. At PACE of the limit there are never more than the limit in any 60 s, not even
when grants reach the upstream up to 0.7 s late. Tokens likewise, with what a call is expected to take; the difference
to what it took is made up afterwards.

Calls at a time: additive increase, multiplicative decrease. A decrease comes at most once a window and goes by the
share of congested calls in it, as in DCTCP (RFC 8257): half when all were refused, little when few were. An increase
adds a thirty-second of the ceiling in the time of one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

PACE = 0.98  # of a limit
BURST_S = 0.5
MOST_AHEAD_S = 120.0  # of what is granted; also what a clock that was set back can cost
MOST_HOLD_S = 3600.0
SAID_FOR_S = 600.0  # how long an upstream's word on its limits counts
STEPS = 32  # from one call at a time to the ceiling
KEPT = ("limit", "fine", "congested", "in_flight", "since")  # of a limit below the ceiling, and its window

State = dict[str, float]


@dataclass(slots=True)
class Report:
    """What a pump says of one model since its last report, and what it asks for. Rates are a minute's, 0: no limit."""

    ceiling: float  # calls at a time, as configured
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    want: int = 0  # calls that it could send
    give_back: int = 0  # calls that were granted and not sent
    call_tokens: float = 1.0  # that a call is expected to take
    more_tokens: float = 0.0  # taken beyond what was granted; below 0: less
    hold_s: float = 0.0  # for which nothing is to be sent
    fine: int = 0  # calls that went well
    congested: int = 0  # calls that were refused for overload, or not answered in time
    in_flight: float = 1.0  # the most calls at a time, of all pumps
    window_s: float = 1.0
    said_requests: float = 0.0  # limits that the upstream told
    said_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Reply:
    """`granted` is `want` where no rate is in force; `limit` is the number of calls at a time for all pumps."""

    granted: int
    wait_s: float  # until more may be granted
    held_s: float
    limit: float
    requests_per_minute: float  # in force; 0: none
    tokens_per_minute: float


def exchange(state: State, report: Report, now: float) -> Reply:
    """Take up a report at the time `now`, in place, and answer it."""
    hold = min(max(state.get("hold", -inf), now + report.hold_s), now + MOST_HOLD_S)
    if hold > now:
        state["hold"] = hold
    limit = _calls_at_a_time(state, report, now)
    requests, tokens = _rates(state, report, now)
    granted, wait = _grant(state, report, requests, tokens, now)
    held = max(0.0, hold - now)
    return Reply(granted, max(wait, held), held, limit, requests, tokens)


def _rates(state: State, report: Report, now: float) -> tuple[float, float]:
    """The rates in force: the lower of what is configured and what the upstream says."""
    if report.said_requests or report.said_tokens:
        state |= {"said_requests": report.said_requests, "said_tokens": report.said_tokens, "said_at": now}
    said = state if abs(now - state.get("said_at", -inf)) < SAID_FOR_S else {}
    return (
        _lower(report.requests_per_minute, said.get("said_requests", 0.0)),
        _lower(report.tokens_per_minute, said.get("said_tokens", 0.0)),
    )


def _lower(configured: float, said: float) -> float:
    return min(configured, said) if configured and said else configured or said


def _grant(state: State, report: Report, requests: float, tokens: float, now: float) -> tuple[int, float]:
    """How many of the wanted calls the rates allow, and in how many seconds there may be more."""
    held = state.get("hold", -inf)
    granted, wait = (0, 0.0) if held > now else (report.want, 0.0)
    request_s = 60 / (requests * PACE) if requests else 0.0
    token_s = 60 / (tokens * PACE) if tokens else 0.0
    sizes = {
        "requests_at": (request_s, -report.give_back * request_s),
        "tokens_at": (report.call_tokens * token_s, report.more_tokens * token_s),
    }
    earned: dict[str, float] = {}
    for name, (size_s, shift_s) in sizes.items():
        if size_s:
            # After a hold grants begin one by one.
            at = max(max(state.get(name, 0.0), now) + shift_s, now, held + BURST_S if held <= now else now)
            earned[name] = min(at, now + MOST_AHEAD_S)
            granted = min(granted, max(0, int((now + BURST_S - earned[name]) // size_s) + 1))
    for name, at in earned.items():
        state[name] = at + granted * sizes[name][0]
        wait = max(wait, state[name] - BURST_S - now)
    return granted, wait if granted < report.want else 0.0


def _calls_at_a_time(state: State, report: Report, now: float) -> float:
    """The limit after this report's calls. Nothing is kept of a model whose limit is at the ceiling."""
    limit = min(state.get("limit", report.ceiling), report.ceiling)
    congested = state.get("congested", 0.0) + report.congested
    if limit < report.ceiling:
        limit = min(report.ceiling, limit + report.fine * max(1.0, report.ceiling / STEPS) / limit)
    if limit >= report.ceiling and not congested:
        for name in KEPT:
            state.pop(name, None)
        return report.ceiling
    fine, since = state.get("fine", 0.0) + report.fine, state.get("since", -inf)
    in_flight = max(state.get("in_flight", 1.0), report.in_flight)
    if abs(now - since) >= report.window_s:
        if congested:
            limit = max(1.0, min(limit, in_flight) * (1 - congested / (fine + congested) / 2))
        fine, congested, in_flight, since = 0.0, 0.0, 1.0, now
    state |= {"limit": limit, "fine": fine, "congested": congested, "in_flight": in_flight, "since": since}
    return limit
