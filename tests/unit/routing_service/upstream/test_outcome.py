"""What an HTTP answer means for the money and for a retry: the table of the design, row by row."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from routing_service.models import AttemptState, EntryBasis
from routing_service.settings import ModelSettings
from routing_service.upstream.outcome import LOST, Outcome, RetryPolicy, Usage, mask, read_answer, unsent

MODEL = ModelSettings(name="m", base_url="http://127.0.0.1:9/v1")
NAMES = st.sampled_from(
    [
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
        "cached_tokens",
        "reasoning_tokens",
        "total_tokens",
    ]
)
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}}],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}


def _read(status: int, body: Any, **headers: str) -> Outcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(status, headers, raw, MODEL)


def test_an_answer_with_usage_is_settled_by_it() -> None:
    outcome = _read(200, ANSWER)
    assert outcome.answered
    assert (outcome.basis, outcome.usage) == (EntryBasis.USAGE, Usage(10, 5, 4, 2))


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "10"}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": True}]
)
def test_an_answer_without_usable_usage_is_settled_in_full(usage: Any) -> None:
    outcome = _read(200, ANSWER | {"usage": usage})
    assert outcome.answered
    assert (outcome.basis, outcome.usage) == (EntryBasis.ESTIMATED, None)


@pytest.mark.parametrize("tokens", ["2147483647", "2147483648", "18446744073709551616", "1e300"])
def test_a_usage_beyond_all_bounds_counts_as_the_most_that_can_be_kept(tokens: str) -> None:
    """Not as a missing one: it is above any reservation, so its model stops."""
    raw = json.dumps(ANSWER).replace('"prompt_tokens": 10', f'"prompt_tokens": {tokens}').encode()
    outcome = _read(200, raw)
    assert (outcome.basis, outcome.usage) == (EntryBasis.USAGE, Usage(2**31 - 1, 5, 4, 2))


@pytest.mark.parametrize(
    ("completion", "reasoning", "total", "output"),
    [
        (9, 94, 135, 103),  # beside
        (9, 94, None, 103),
        (94, 9, 135, 103),
        (103, 94, 135, 103),  # inside
        (103, 94, None, 103),
        (103, 94, 100, 103),  # a total that cannot be
    ],
)
def test_reasoning_is_output_whether_it_is_counted_inside_or_beside(
    completion: int, reasoning: int, total: int | None, output: int
) -> None:
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": completion,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    assert _read(200, ANSWER | {"usage": usage}).usage == Usage(32, output, 0, reasoning)


@example({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": True}})
@given(usage=st.recursive(st.integers() | st.floats() | st.booleans() | st.none(), lambda x: st.dictionaries(NAMES, x)))
def test_any_usage_gives_counts_that_can_be_kept_or_none(usage: Any) -> None:
    outcome = read_answer(200, {}, orjson.dumps(ANSWER | {"usage": _sixty_four_bits(usage)}), MODEL)
    assert outcome.answered
    if outcome.usage:
        kept = outcome.usage
        assert all(type(n) is int and 0 <= n < 2**31 for n in (kept.input, kept.output, kept.cached, kept.reasoning))
        assert kept.cached <= kept.input
        assert kept.reasoning <= kept.output


def _sixty_four_bits(value: Any) -> Any:
    """What JSON can say of it."""
    if isinstance(value, dict):
        return {name: _sixty_four_bits(part) for name, part in value.items()}
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


@pytest.mark.parametrize("choices", [[], None, ["x"], [{"message": None}], "text"])
def test_an_answer_without_choices_is_paid_by_usage_and_retried(choices: Any) -> None:
    outcome = _read(200, ANSWER | {"choices": choices})
    assert not outcome.answered
    assert outcome.retry
    assert outcome.basis is EntryBasis.USAGE


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b'"text"', b'{"a": NaN}'])
def test_garbage_is_unknown(raw: bytes) -> None:
    outcome = _read(200, raw)
    assert (outcome.state, outcome.basis, outcome.retry) == (AttemptState.UNKNOWN, EntryBasis.UNKNOWN, True)


@pytest.mark.parametrize(
    ("status", "state", "retry"),
    [
        (400, AttemptState.REFUSED, False),
        (401, AttemptState.REFUSED, False),
        (403, AttemptState.REFUSED, False),
        (404, AttemptState.REFUSED, False),
        (413, AttemptState.REFUSED, False),
        (408, AttemptState.REFUSED, True),
        (429, AttemptState.REFUSED, True),
        (500, AttemptState.UNKNOWN, True),
        (503, AttemptState.UNKNOWN, True),
        (302, AttemptState.UNKNOWN, False),
        (204, AttemptState.UNKNOWN, False),
    ],
)
def test_a_status_decides_billing_and_retry(status: int, state: AttemptState, retry: bool) -> None:
    outcome = _read(status, {"error": {"message": "no", "code": "c"}})
    assert (outcome.state, outcome.retry, outcome.answered) == (state, retry, False)
    assert outcome.basis is (EntryBasis.UNBILLED if state is AttemptState.REFUSED else EntryBasis.UNKNOWN)


def test_a_model_that_does_not_bill_errors_releases_5xx() -> None:
    model = MODEL.model_copy(update={"bill_on_5xx": False})
    assert read_answer(502, {}, b"bad gateway", model).basis is EntryBasis.UNBILLED


def test_a_call_that_never_left_costs_nothing() -> None:
    assert (unsent("no route").basis, LOST.basis) == (EntryBasis.UNBILLED, EntryBasis.UNKNOWN)


def test_keys_in_upstream_errors_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "very-private")
    model = MODEL.model_copy(update={"api_key_env": "UPSTREAM_KEY"})
    body = json.dumps({"error": {"message": "Incorrect API key very-private, or sk-proj-abcdefgh12345678"}}).encode()
    outcome = read_answer(401, {}, body, model)
    for text in (outcome.error_message or "", outcome.body or "", repr(outcome)):
        assert "very-private" not in text
        assert "abcdefgh" not in text
    assert "\0" not in mask("a\0b")


@given(attempt=st.integers(1, 40), asked=st.none() | st.floats(0, 3600), seed=st.integers())
def test_a_retry_waits_with_full_jitter_and_never_less_than_asked(attempt: int, asked: float | None, seed: int) -> None:
    policy = RetryPolicy(max_attempts=6, base_s=0.5, max_s=60)
    outcome = Outcome(AttemptState.REFUSED, EntryBasis.UNBILLED, retry=True, retry_after_s=asked)
    delay = policy.delay_s(outcome, attempt, random.Random(seed))
    assert (asked or 0) <= delay <= (asked or 0) + min(60, 0.5 * 2 ** (attempt - 1))


def test_attempts_are_limited() -> None:
    policy = RetryPolicy(max_attempts=3, base_s=1, max_s=1)
    assert [policy.again(LOST, n) for n in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("field", ["message", "code"])
@pytest.mark.parametrize("before", [0, 95, 990])
def test_no_part_of_the_upstreams_key_is_kept(field: str, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "s3cr3t-value-of-the-operator")
    model = ModelSettings(name="m", base_url="http://127.0.0.1:9/v1", api_key_env="UPSTREAM_KEY")
    raw = json.dumps({"error": {field: "x" * before + " s3cr3t-value-of-the-operator"}}).encode()
    outcome = read_answer(401, {}, raw, model)
    assert "s3c" not in repr(outcome)


@pytest.mark.parametrize("value", [[[1]], {"a": 1}, None, 7, True, "x\0y"])
def test_an_error_of_any_shape_has_a_code_and_a_message(value: Any) -> None:
    for error in (value, {"code": value, "message": value}):
        outcome = _read(400, {"error": error})
        assert outcome.error_code
        assert outcome.error_message
        assert "\0" not in outcome.error_message + outcome.error_code
