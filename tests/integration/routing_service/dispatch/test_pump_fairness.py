"""Many batches at one pump whose slots are few and whose upstream is slow: who is asked next."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from routing_service.db import Database
from tests.support.factories import make_key
from tests.support.planned import Planned, make_planned_batch
from tests.support.pumping import pump_settings, run_pump
from tests.support.upstreams.gated import Gate, gated_upstream

SLOTS = 4


def planned(database: Database, name: str, lines: int, *, key_id: str | None = None, priority: int = 5) -> None:
    """A batch whose prompts begin with its name."""
    requests = [Planned(prompt=f"{name} {n}") for n in range(lines)]
    with database.transaction() as session:
        make_planned_batch(session, requests, key_id=key_id, priority=priority)


@contextmanager
def pumping(database: Database, *, claim_chunk: int = 64) -> Iterator[Gate]:
    """A pump of few slots in the block; all that is left is answered at its end."""
    with gated_upstream() as gate, ThreadPoolExecutor(1) as thread:
        settings = pump_settings(gate.base_url, max_in_flight=SLOTS, claim_chunk=claim_chunk, settle_interval_ms=5)
        pump = thread.submit(run_pump, database, settings)
        try:
            yield gate
        finally:
            gate.let()
            pump.result(30)


def calls_one_by_one(gate: Gate, calls: int) -> list[str]:
    """Let so many calls come, each when a slot is free again; the names of their batches, in that order."""
    gate.wait_for(SLOTS)
    for call in range(SLOTS + 1, calls + 1):
        gate.let(1)
        gate.wait_for(call)
    return [prompt.split()[0] for prompt in gate.prompts[:calls]]


def test_a_small_batch_behind_a_large_one_is_asked_within_a_round(database: Database) -> None:
    planned(database, "large", 60)
    with pumping(database) as gate:
        gate.wait_for(SLOTS)
        planned(database, "small", 2)
        names = calls_one_by_one(gate, 3 * SLOTS)
    assert names[:SLOTS] == ["large"] * SLOTS
    assert "small" in names[: SLOTS + 2]  # with the first slot that is free, unless the pump was about to fill it
    assert names.count("small") == 2


def test_a_key_with_many_batches_gets_no_more_than_a_key_with_one(database: Database) -> None:
    with database.transaction() as session:
        busy = make_key(session).id
    for _ in range(10):
        planned(database, "busy", 8, key_id=busy)
    planned(database, "other", 30)
    with pumping(database, claim_chunk=1) as gate:
        names = calls_one_by_one(gate, 40)
    assert abs(names.count("other") - 20) <= 2
    assert names[: 2 * SLOTS].count("other") >= SLOTS - 1  # from the start


def test_a_key_takes_what_others_leave(database: Database) -> None:
    planned(database, "large", 20)
    planned(database, "small", 1)
    with pumping(database) as gate:
        names = calls_one_by_one(gate, 3 * SLOTS)
    assert names.count("large") == 3 * SLOTS - 1


def test_a_higher_priority_is_served_before_all_others(database: Database) -> None:
    planned(database, "usual", 20)
    with pumping(database) as gate:
        gate.wait_for(SLOTS)
        planned(database, "urgent", 8, priority=6)
        names = calls_one_by_one(gate, SLOTS + 10)
    assert names[SLOTS + 1 :][:7] == ["urgent"] * 7
