"""What is read out of an upstream's rate limit headers, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.upstream.rate_headers import Allowance, read_allowance, retry_after, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("120ms", 0.12), ("1s", 1), ("6m0s", 360), ("2m59.56s", 179.56), ("1h2m3s", 3723), ("7", 7), ("", 0), ("soon", 0)],
)
def test_durations_are_read_as_openai_writes_them(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@given(st.text(max_size=30))
def test_no_text_makes_a_duration_fail(text: str) -> None:
    assert seconds(text) >= 0


def test_limits_are_read_and_what_is_used_up_is_waited_for() -> None:
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1.5s",
    }
    assert read_allowance(headers) == Allowance(500, 200_000, 1.5)


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-limit-requests": "many"}, {"x-ratelimit-limit-requests": "-5"}])
def test_an_upstream_that_tells_no_limit_sets_none(headers: dict[str, str]) -> None:
    assert read_allowance(headers) is None


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-4", 0.0),
        ("999999", 3600.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str, asked: float | None) -> None:
    assert retry_after({"Retry-After": value}, now=10.0) == asked


def test_milliseconds_are_the_finer_word() -> None:
    assert retry_after({"Retry-After": "1", "retry-after-ms": "120"}) == 0.12
    assert retry_after({"Retry-After": "1", "retry-after-ms": "soon"}) == 1


def test_a_date_beyond_the_calendar_asks_for_no_wait() -> None:
    assert retry_after({"Retry-After": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}) is None


def test_a_date_counts_from_the_answers_own_date() -> None:
    headers = {"Date": "Thu, 01 Jan 1970 00:01:00 GMT", "Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}
    assert retry_after(headers, now=10.0) == 40
