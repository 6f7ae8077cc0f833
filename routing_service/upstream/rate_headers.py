"""What an upstream says of its rate limits and of waiting: OpenAI's `x-ratelimit-*` headers and `Retry-After`. Pure.

https://platform.openai.com/docs/guides/rate-limits: limits are a minute's, and `reset` is a time from now, such as
`120ms`, `6m0s` or plain seconds. Where only a day's limit is told it is the higher number and tightens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits a minute (0: not told), and for how many seconds nothing at all is left."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    used_up_s: float = 0.0


def read_allowance(headers: Mapping[str, str]) -> Allowance | None:
    """None where the upstream tells no limit; what cannot be read counts as not told."""
    requests = _number(headers.get("x-ratelimit-limit-requests"))
    tokens = _number(headers.get("x-ratelimit-limit-tokens"))
    if not requests and not tokens:
        return None
    used_up = max(_used_up_s(headers, "requests"), _used_up_s(headers, "tokens"))
    return Allowance(requests, tokens, used_up)


def _number(value: str | None) -> float:
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 16 else 0.0


def _used_up_s(headers: Mapping[str, str], what: str) -> float:
    if headers.get(f"x-ratelimit-remaining-{what}") != "0":
        return 0.0
    return seconds(headers.get(f"x-ratelimit-reset-{what}", ""))


def seconds(text: str) -> float:
    """A duration such as `1m30.5s`, `120ms` or `2`, in seconds; 0 for anything else."""
    text = text.strip()
    if _DURATION.sub("", text) == "":
        return sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION.findall(text))
    return _number(text)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that `Retry-After` asks to wait (a number or an HTTP date), at most an hour; None without one.

    OpenAI's `retry-after-ms` is the finer of the two where both are there. A date counts from the answer's own `Date`:
    the clock of this host may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    finer = headers.get("retry-after-ms", "")
    try:
        asked = float(finer) / 1000 if finer.isdigit() else float(value) if value else None
    except ValueError:
        until, said = _moment(value), _moment(headers.get("Date", ""))
        at = time() if now is None else now
        asked = None if until is None else until - (at if said is None else said)
    return None if asked is None or asked != asked else min(max(asked, 0.0), 3600.0)


def _moment(date: str) -> float | None:
    """A date of an HTTP header in seconds since 1970."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
