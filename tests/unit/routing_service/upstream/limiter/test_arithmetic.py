"""The rules of politeness as pure arithmetic: rates, waits, and calls at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.upstream.limiter.arithmetic import BURST_S, Report, State, exchange

START = 1_000_000.0


def ask(state: State, now: float, want: int = 1, **report: float) -> int:
    report = {"ceiling": 128, "requests_per_minute": 600} | report
    return exchange(state, Report(want=want, **report), START + now).granted  # type: ignore[arg-type]


def calls(state: State, now: float, fine: int = 0, congested: int = 0, in_flight: float = 64) -> float:
    report = Report(ceiling=64, fine=fine, congested=congested, in_flight=in_flight)
    return exchange(state, report, START + now).limit


@given(
    st.integers(1, 2000),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 60), st.floats(0, 0.7)), min_size=1, max_size=200),
)
def test_no_minute_holds_more_than_the_limit_even_if_calls_come_late(
    rate: int, asks: list[tuple[float, int, float]]
) -> None:
    state: State = {}
    now, arrivals = 0.0, list[float]()
    for gap, want, late in asks:
        now += gap
        arrivals += [now + late] * ask(state, now, want, requests_per_minute=rate)
    assert all(sum(then - 60 < t <= then for t in arrivals) <= rate for then in arrivals)


@pytest.mark.parametrize("rate", [6, 60, 600, 6000])
def test_who_always_asks_gets_95_percent_of_the_limit(rate: int) -> None:
    state: State = {}
    granted = sum(ask(state, tenth / 10, want=1000, requests_per_minute=rate) for tenth in range(6000))
    assert 0.95 * rate * 10 <= granted <= rate * 10


def test_what_is_given_back_is_granted_again() -> None:
    state: State = {}
    granted = ask(state, 0, want=100)
    assert ask(state, 0) == 0
    assert ask(state, 0, want=100, give_back=granted) == granted


def test_the_reply_says_when_there_may_be_more() -> None:
    state: State = {}
    ask(state, 0, want=100)
    reply = exchange(state, Report(ceiling=9, want=1, requests_per_minute=600), START)
    assert ask(state, reply.wait_s - 0.001) == 0
    assert ask(state, reply.wait_s + 0.001) == 1


def test_tokens_that_calls_took_beyond_what_was_expected_are_made_up_for() -> None:
    tokens = {"requests_per_minute": 0, "tokens_per_minute": 60_000, "call_tokens": 100}
    thrifty, lavish = dict[str, float](), dict[str, float]()
    for state in (thrifty, lavish):
        ask(state, 0, want=1000, **tokens)
    ask(lavish, 0, want=0, more_tokens=3000, **tokens)
    assert ask(thrifty, 2, want=1000, **tokens) > 0
    assert ask(lavish, 2, want=1000, **tokens) == 0
    assert ask(lavish, 4, want=1000, **tokens) > 0


def test_the_lower_of_the_configured_and_the_told_limit_is_in_force_while_it_is_fresh() -> None:
    state: State = {}
    reply = exchange(state, Report(ceiling=9, requests_per_minute=600, said_requests=60, said_tokens=500), START)
    assert (reply.requests_per_minute, reply.tokens_per_minute) == (60, 500)
    reply = exchange(state, Report(ceiling=9, requests_per_minute=30), START)
    assert reply.requests_per_minute == 30
    reply = exchange(state, Report(ceiling=9, requests_per_minute=600), START + 1000)
    assert (reply.requests_per_minute, reply.tokens_per_minute) == (600, 0)


def test_a_wait_holds_every_call_and_ends_without_a_burst() -> None:
    state: State = {}
    assert ask(state, 0, want=9, hold_s=20) == 0
    assert ask(state, 19.9, want=9) == 0
    assert ask(state, 20.01, want=9) == 1
    unrated: State = {}
    assert exchange(unrated, Report(ceiling=9, want=9, hold_s=20), START).granted == 0
    assert exchange(unrated, Report(ceiling=9, want=9), START + 21).granted == 9


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    state: State = {}
    ask(state, 0, hold_s=20)
    ask(state, 1, hold_s=2)
    assert ask(state, 19) == 0


def test_a_clock_that_was_set_back_costs_minutes_at_most() -> None:
    state: State = {}
    ask(state, 0, want=9)
    assert ask(state, -7200, want=9) == 0
    assert ask(state, -7200 + 125, want=9) > 0


def test_emptied_state_grants_a_burst_at_most() -> None:
    ask(dict[str, float](), 0, want=1000)
    assert ask({}, 0, want=1000) <= 10 * BURST_S + 1


def test_calls_at_a_time_are_halved_once_a_window_when_all_are_refused() -> None:
    state: State = {}
    assert calls(state, 0, congested=10) == 32
    assert calls(state, 0.5, congested=10) == 32
    assert calls(state, 1.1, congested=10) == 16


def test_a_few_refusals_among_many_calls_cost_little() -> None:
    assert calls({}, 0, fine=98, congested=2) == pytest.approx(63.36)


def test_the_decrease_starts_from_what_was_in_flight() -> None:
    assert calls({}, 0, congested=10, in_flight=10) == 5


def test_calls_at_a_time_come_back_step_by_step_and_trouble_is_forgotten() -> None:
    state: State = {}
    calls(state, 0, congested=10)
    limit, rounds = 32.0, 0
    while limit < 64:
        after = calls(state, 2 + rounds, fine=int(limit))
        assert limit < after <= limit + 2.01
        limit, rounds = after, rounds + 1
    assert rounds >= 16
    calls(state, 100)
    assert not state


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50), st.integers(0, 50), st.floats(1, 500)), max_size=50))
def test_calls_at_a_time_stay_between_one_and_the_ceiling(steps: list[tuple[float, int, int, float]]) -> None:
    state: State = {}
    now = 0.0
    for gap, fine, congested, in_flight in steps:
        now += gap
        assert 1 <= calls(state, now, fine, congested, in_flight) <= 64
