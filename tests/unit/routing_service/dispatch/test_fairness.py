"""Whose turn it is: priorities, and fair shares of keys before those of batches."""

from __future__ import annotations

from collections import Counter, deque
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from routing_service.dispatch.fairness import FairScheduler, Runnable

START = datetime(2026, 1, 1, tzinfo=UTC)


def batches_of(by_key: list[int], priority: int = 5) -> list[Runnable]:
    """So many batches of each key, all of one priority, created one after the other."""
    keys = [f"key_{n}" for n, count in enumerate(by_key) for _ in range(count)]
    return [Runnable(f"batch_{n}", key, priority, START + timedelta(n), True) for n, key in enumerate(keys)]


def serve(scheduler: FairScheduler, batches: list[Runnable], *, claim_chunk: int = 1) -> Runnable:
    batch = scheduler.next(batches)
    scheduler.served(batch)
    for _ in range(claim_chunk):
        scheduler.sent(batch)
    return batch


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 40))
def test_keys_share_what_is_in_flight_equally_however_many_batches_they_have(by_key: list[int], slots: int) -> None:
    scheduler, batches = FairScheduler(), batches_of(by_key)
    in_flight = deque(serve(scheduler, batches) for _ in range(slots))
    for _ in range(3 * slots):
        scheduler.ended(in_flight.popleft())
        in_flight.append(serve(scheduler, batches))
        shares = Counter(batch.api_key_id for batch in in_flight)
        assert max(shares.values()) - min(shares[b.api_key_id] for b in batches) <= 1


def test_the_batches_of_a_key_share_its_part_equally() -> None:
    scheduler, batches = FairScheduler(), batches_of([2, 4])
    shares = Counter(serve(scheduler, batches).batch_id for _ in range(32))
    assert shares == {"batch_0": 8, "batch_1": 8, "batch_2": 4, "batch_3": 4, "batch_4": 4, "batch_5": 4}


def test_where_nothing_stays_in_flight_it_goes_round() -> None:
    """A rate holds calls up, and answers come at once."""
    scheduler, batches = FairScheduler(), batches_of([2, 1])
    served = []
    for _ in range(8):
        served.append(serve(scheduler, batches, claim_chunk=3))
        for _ in range(3):
            scheduler.ended(served[-1])
    assert [batch.batch_id for batch in served] == ["batch_0", "batch_2", "batch_1", "batch_2"] * 2


def test_who_comes_late_is_served_next_and_does_not_make_up_for_the_past() -> None:
    scheduler, first = FairScheduler(), batches_of([1])
    in_flight = deque(serve(scheduler, first) for _ in range(4))
    both = [*first, Runnable("batch_late", "key_late", 5, START + timedelta(9), True)]
    served = []
    for _ in range(6):
        scheduler.ended(in_flight.popleft())
        in_flight.append(serve(scheduler, both))
        served.append(in_flight[-1].batch_id)
    assert served == ["batch_late", "batch_late", "batch_0", "batch_0", "batch_late", "batch_late"]


def test_a_higher_priority_comes_first_whatever_it_has_in_flight() -> None:
    scheduler = FairScheduler()
    low, high = batches_of([1], priority=4), batches_of([0, 1], priority=5)
    assert [serve(scheduler, [*low, *high]) for _ in range(20)] == high * 20
