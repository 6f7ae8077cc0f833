"""What a pump may send, with the clock and the shared state in the test's hands."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.models import AttemptState, EntryBasis
from routing_service.settings import ModelSettings
from routing_service.upstream.limiter import Limiter, Share
from routing_service.upstream.limiter.arithmetic import Reply, Report, State, exchange
from routing_service.upstream.limiter.pace import FIRST_CALLS
from routing_service.upstream.outcome import Outcome, Usage, broken
from routing_service.upstream.rate_headers import Allowance
from tests.support.factories import WEAK

ALONE = Share(1, 0)


class FakeShared:
    """One state for all pumps, on the test's clock; counts the round trips. `meanwhile` happens during the next one."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] | None = None
        self.now = 1000.0
        self.round_trips = 0
        self.reports: list[Report] = []
        self._states: dict[str, State] = {}

    async def exchange(self, reports: Mapping[str, Report]) -> dict[str, Reply]:
        self.round_trips += 1
        self.reports.append(reports["weak"])
        if self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
        return {name: exchange(self._states.setdefault(name, {}), r, self.now) for name, r in reports.items()}


class Pump:
    """A pump of one model, as far as its limiter is concerned."""

    def __init__(self, shared: FakeShared, share: Share = ALONE, heard: bool = True, **options: object) -> None:
        model = ModelSettings.model_validate(WEAK | options)
        self.limiter = Limiter({"weak": model}, shared, lambda: shared.now, random.Random(1))
        self.share, self.in_flight = share, 0
        if heard:
            self.end(answered())

    def free(self, most: int = 64) -> int:
        asyncio.run(self.limiter.refresh(self.share, {"weak": self.in_flight}, most))
        return self.limiter.free("weak", self.share, self.in_flight)

    def send(self, calls: int, body_bytes: int = 100) -> float:
        tokens = 0.0
        for _ in range(calls):
            self.in_flight += 1
            tokens = self.limiter.sent("weak", body_bytes, self.in_flight)
        return tokens

    def end(self, outcome: Outcome, calls: int = 1, tokens: float = 0.0) -> None:
        for _ in range(calls):
            self.limiter.ended("weak", outcome, tokens, 0.05)
        self.in_flight = max(0, self.in_flight - calls)


def answered(tokens: int = 50, allowance: Allowance | None = None) -> Outcome:
    usage = Usage(tokens - 10, 10)
    return Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, usage=usage, allowance=allowance)


def refused(status: int = 429, retry_after_s: float | None = None) -> Outcome:
    return Outcome(
        AttemptState.REFUSED, EntryBasis.UNBILLED, status_code=status, retry=True, retry_after_s=retry_after_s
    )


@given(st.floats(1, 1000), st.integers(1, 20))
def test_the_parts_of_all_pumps_are_the_whole(limit: float, pumps: int) -> None:
    assert sum(Share(pumps, rank).of(limit) for rank in range(pumps)) == int(limit)


def test_a_calm_model_costs_a_round_trip_a_second() -> None:
    shared = FakeShared()
    pump = Pump(shared)
    for _ in range(100):
        assert pump.free() == 128
        shared.now += 0.02
    assert shared.round_trips <= 3


def test_a_stranger_is_sent_few_calls_until_one_is_answered() -> None:
    pump = Pump(FakeShared(), heard=False)
    assert pump.free() == FIRST_CALLS
    pump.send(FIRST_CALLS)
    assert pump.free() == 0
    pump.end(answered())
    assert pump.free() == 128 - FIRST_CALLS + 1


def test_no_more_is_asked_for_than_can_be_sent_and_what_is_left_is_given_back() -> None:
    shared = FakeShared()
    first = Pump(shared, requests_per_minute=600)
    assert first.free(most=2) == 2
    first.send(1)
    shared.now += 0.1
    assert first.free(most=0) == 0
    assert (shared.reports[0].want, shared.reports[1].give_back) == (2, 1)


def test_a_pump_without_work_takes_no_permits() -> None:
    shared = FakeShared()
    assert Pump(shared, requests_per_minute=600).free(most=0) == 0
    assert Pump(shared, requests_per_minute=600).free() == 5


def test_who_is_refused_more_asks_again_at_most_ten_times_a_second() -> None:
    shared = FakeShared()
    pump = Pump(shared, requests_per_minute=6000)
    for _ in range(100):
        pump.send(pump.free())
        pump.end(answered(), pump.in_flight)
        shared.now += 0.01
    assert shared.round_trips <= 12


@pytest.mark.parametrize(("status", "waits"), [(429, True), (503, True), (529, True), (500, False), (400, False)])
def test_what_an_overloaded_upstream_asks_to_wait_is_waited_by_all(status: int, waits: bool) -> None:
    shared = FakeShared()
    first, second = Pump(shared), Pump(shared)
    second.free()
    first.end(refused(status, retry_after_s=20), 3)
    assert (first.free() == 0) == waits
    shared.now += 1.0
    assert (second.free() == 0) == waits
    shared.now += 21.0
    assert second.free() > 0


def test_a_refusal_among_many_answers_is_no_word_about_the_other_calls() -> None:
    shared = FakeShared()
    pump = Pump(shared)
    for _ in range(50):
        pump.send(100)
        pump.end(answered(), 99)
        pump.end(refused(retry_after_s=20))
        shared.now += 1.1
        assert pump.free() > 90


def test_where_a_rate_is_in_force_the_first_refusal_says_that_it_is_used_up() -> None:
    pump = Pump(FakeShared(), requests_per_minute=600)
    pump.end(refused(retry_after_s=20))
    assert pump.free() == 0


def test_after_a_wait_pumps_come_back_one_after_the_other() -> None:
    shared = FakeShared()
    pumps = [Pump(shared) for _ in range(8)]
    for seed, pump in enumerate(pumps):
        pump.limiter._rng = random.Random(seed)
    pumps[0].end(refused(retry_after_s=20), 3)
    starts = set[int]()
    back = set[Pump]()
    for tenth in range(230):
        for pump in pumps:
            if pump.free() and pump not in back and tenth > 10:
                back.add(pump)
                starts.add(tenth)
        shared.now += 0.1
    assert len(back) == 8
    assert min(starts) >= 199
    assert len(starts) >= 4


def test_timeouts_and_refusals_lower_the_calls_at_a_time_in_all_pumps() -> None:
    shared = FakeShared()
    first, second = (Pump(shared, Share(2, rank)) for rank in range(2))
    first.send(32)
    first.end(broken("timeout", "late"), 32)
    shared.now += 1.1
    first.free()
    shared.now += 1.1
    assert first.free() == second.free() == 16


def test_a_limit_that_the_upstream_tells_is_kept_without_any_configuration() -> None:
    shared = FakeShared()
    pump = Pump(shared)
    pump.free()
    pump.end(answered(allowance=Allowance(requests_per_minute=600)))
    assert pump.free() == 5


def test_an_upstream_with_nothing_left_is_left_alone_for_a_second() -> None:
    shared = FakeShared()
    pump = Pump(shared, requests_per_minute=600)
    pump.end(answered(allowance=Allowance(600, 0, used_up_s=40)))
    assert pump.free() == 0
    shared.now += 0.9
    assert pump.free() == 0
    shared.now += 0.2
    assert pump.free() == 1


def test_tokens_are_counted_as_they_were_used_whatever_was_expected() -> None:
    shared = FakeShared()
    pump = Pump(shared, tokens_per_minute=60_000)
    used = 0
    for turn in range(1200):
        calls = pump.free()
        expected = pump.send(calls, body_bytes=4000)
        each = 100 if turn % 3 else 1000
        pump.end(answered(each), calls, expected)
        used += calls * each
        shared.now += 0.1
    assert 0.95 * 2 * 60_000 <= used <= 2 * 60_000


def test_refused_calls_use_no_tokens() -> None:
    shared = FakeShared()
    pump = Pump(shared, tokens_per_minute=60_000)
    calls = pump.free()
    pump.end(refused(), calls, pump.send(calls))
    shared.now += 0.1
    pump.free()
    assert sum(r.more_tokens for r in shared.reports) == pytest.approx(-calls * shared.reports[0].call_tokens)


def test_what_happens_during_a_round_trip_is_in_the_next_report() -> None:
    shared = FakeShared()
    pump = Pump(shared, tokens_per_minute=60_000)
    calls = pump.free()
    expected = pump.send(calls)
    shared.now += 0.1
    shared.meanwhile = lambda: pump.end(refused(retry_after_s=20), calls, expected)
    pump.free()
    assert pump.free() == 0
    last = shared.reports[-1]
    assert (last.congested, last.hold_s) == (calls, 20)
    assert last.more_tokens == pytest.approx(-calls * expected - last.give_back * last.call_tokens)


def test_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    shared = FakeShared()
    pump = Pump(shared)
    for _ in range(3):
        pump.send(64)
        pump.end(refused(retry_after_s=20), 64)
        pump.free()
        shared.now += 1.1
    assert [record.message for record in caplog.records] == [
        "model weak: nothing is sent for 20 s, as its upstream asks",
        "model weak: its upstream is overloaded; 32 calls at a time",
    ]
