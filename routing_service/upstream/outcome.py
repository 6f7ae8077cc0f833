"""What became of an upstream call: its meaning for the money and for a retry. Pure.

`read_answer` turns an HTTP answer into an Outcome; `unsent` and `broken` do it for calls without one. The retry policy
is a value that stands here too, so that there is one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import SecretStr

from routing_service.models import AttemptState, EntryBasis
from routing_service.settings import DispatchSettings, ModelSettings
from routing_service.upstream.rate_headers import Allowance, read_allowance, retry_after

SECRET = re.compile(r"\b(sk|rb|pk|key)-[A-Za-z0-9_\-*]{6,}")
RETRIED = {408, 409, 425, 429}
MOST_TOKENS = 2**31 - 1  # that an attempt's row keeps
_ERROR_FIELDS = ("code", "type", "message")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream bills them. `cached` is a part of `input`, `reasoning` a part of `output`."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call. `body` is the answer's (or error's) JSON text on one line."""

    state: AttemptState
    basis: EntryBasis
    status_code: int | None = None
    body: str | None = None
    usage: Usage | None = None
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry: bool = False
    retry_after_s: float | None = None
    allowance: Allowance | None = None  # what the upstream says of its rate limits

    @property
    def answered(self) -> bool:
        return self.state is AttemptState.SUCCEEDED and self.error_code is None

    @property
    def is_too_long(self) -> bool:
        """For this model; another one may take it."""
        return self.status_code == 413 or self.error_code == "context_length_exceeded"

    @property
    def refuses_us(self) -> bool:
        """Our key, or us: whatever we ask."""
        return self.status_code in (401, 403)


LOST = Outcome(
    AttemptState.UNKNOWN,
    EntryBasis.UNKNOWN,
    error_code="worker_lost",
    error_message="The worker died during this call; whether it was billed is not known.",
    retry=True,
)


STOPPED = Outcome(
    AttemptState.UNKNOWN,
    EntryBasis.UNKNOWN,
    error_code="worker_stopped",
    error_message="The worker was stopped during this call; whether it was billed is not known.",
    retry=True,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The one retry policy: exponential backoff with full jitter, never sooner than the upstream asks.

    No library does it (tenacity, backoff, the SDK's own): theirs wait in the process that made the call. Here a retry
    is a request that waits in the database, is claimed by any pump when its time has come, and reserves money anew. So
    there is one owner of retries, and nothing beneath it tries again by itself.
    """

    max_attempts: int
    base_s: float
    max_s: float

    @classmethod
    def of(cls, settings: DispatchSettings) -> RetryPolicy:
        return cls(settings.max_attempts, settings.backoff_base_s, settings.backoff_max_s)

    def again(self, outcome: Outcome, attempt: int) -> bool:
        """Whether attempt number `attempt` (from 1) may be followed by another."""
        return outcome.retry and attempt < self.max_attempts

    def delay_s(self, outcome: Outcome, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after attempt number `attempt` (from 1)."""
        ceiling = min(self.max_s, self.base_s * 2 ** (attempt - 1))
        wait = rng.uniform(0, ceiling)
        asked = outcome.retry_after_s
        return wait if asked is None else asked + wait


def mask(message: str, limit: int = 1000, key: SecretStr | None = None) -> str:
    """An upstream's text without `key` or anything that looks like one, and not too long; fit for Postgres."""
    if key:  # before the cut, which could leave half of it
        message = message.replace(key.get_secret_value(), "***")
    return SECRET.sub(r"\1-***", message.replace("\0", ""))[:limit]


def read_answer(status: int, headers: Mapping[str, str], raw: bytes, model: ModelSettings) -> Outcome:
    """The Outcome of a complete HTTP answer, by the table of docs/explanation/architecture.md."""
    # A header's bytes that are no UTF-8 come as surrogates, which the database cannot store.
    request_id = "".join(c for c in headers.get("x-request-id", "") if c.isprintable())[:200] or None
    if status == 200:
        return _answer(raw, request_id, read_allowance(headers))
    code, message = _error_of(_parse(raw), status, model.api_key())
    unbilled = 400 <= status < 500 or (status >= 500 and not model.bill_on_5xx)
    return Outcome(
        AttemptState.REFUSED if unbilled else AttemptState.UNKNOWN,
        EntryBasis.UNBILLED if unbilled else EntryBasis.UNKNOWN,
        status_code=status,
        body=_one_line({"error": {"message": message, "type": "upstream_error", "param": None, "code": code}}),
        request_id=request_id,
        error_code=code,
        error_message=message,
        retry=status in RETRIED or status >= 500,
        retry_after_s=retry_after(headers),
        allowance=read_allowance(headers),
    )


def _answer(raw: bytes, request_id: str | None, allowance: Allowance | None) -> Outcome:
    parsed = _parse(raw)
    if not isinstance(parsed, dict):
        return broken("invalid_answer", "the upstream's answer is not a JSON object")
    usage = _usage(parsed.get("usage"))
    choices = parsed.get("choices")
    message = (
        choices[0].get("message") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    )
    usable = isinstance(message, dict)
    try:
        body = _one_line(parsed)
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        return broken("invalid_answer", "the upstream's answer is nested too deeply")
    return Outcome(
        AttemptState.SUCCEEDED,
        EntryBasis.USAGE if usage else EntryBasis.ESTIMATED,
        status_code=200,
        body=body,
        usage=usage,
        request_id=request_id,
        allowance=allowance,
        error_code=None if usable else "empty_answer",
        error_message=None if usable else "the upstream's answer has no choices",
        retry=not usable,
    )


def _usage(usage: Any) -> Usage | None:
    """The billed tokens, or None where the upstream gave no usable account (then the reservation is settled).

    Where reasoning stands beside `completion_tokens` instead of in it (xAI, Gemini), the total tells; it is output.
    """
    if not isinstance(usage, dict):
        return None
    billed_input, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if billed_input is None or completion is None:
        return None
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens", MOST_TOKENS)
    beside = reasoning if reasoning > completion else 0
    total = _count(usage.get("total_tokens")) or 0
    billed_output = min(max(completion + beside, total - billed_input), MOST_TOKENS)
    return Usage(
        billed_input,
        billed_output,
        cached=_detail(usage, "prompt_tokens_details", "cached_tokens", billed_input),
        reasoning=min(reasoning, billed_output),
    )


def _count(value: Any) -> int | None:
    """A count of tokens. One beyond all bounds is nonsense, but not a missing one: as the most that can be kept it is
    above any reservation, so its model stops. (JSON's whole numbers beyond 64 bits come as floats.)"""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    if value > MOST_TOKENS:
        return MOST_TOKENS
    return value if isinstance(value, int) else None


def _detail(usage: dict[str, Any], group: str, name: str, at_most: int) -> int:
    details = usage.get(group)
    return min(_count(details.get(name)) or 0, at_most) if isinstance(details, dict) else 0


def _error_of(parsed: Any, status: int, key: SecretStr | None) -> tuple[str, str]:
    """Code and message of an error answer, whatever stands in it."""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    fields = error if isinstance(error, dict) else {"message": error}
    code, kind, message = (str(v) if isinstance(v := fields.get(k), str | int) else "" for k in _ERROR_FIELDS)
    return mask(code or kind or f"http_{status}", 100, key), mask(message or f"the upstream answered {status}", key=key)


def unsent(message: str) -> Outcome:
    """The call never reached the upstream: nothing was billed."""
    return Outcome(
        AttemptState.REFUSED,
        EntryBasis.UNBILLED,
        error_code="connection_error",
        error_message=mask(message),
        retry=True,
    )


def broken(code: str, message: str) -> Outcome:
    """Bytes left and no usable answer came: nobody knows whether it was billed."""
    return Outcome(AttemptState.UNKNOWN, EntryBasis.UNKNOWN, error_code=code, error_message=mask(message), retry=True)


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _one_line(value: Any) -> str:
    return orjson.dumps(value).decode()
