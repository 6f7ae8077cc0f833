"""A pump whose upstream sends large answers holds a bounded sum of them, and answers every request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.models import AttemptState, EntryBasis
from routing_service.money.pricing import price_book
from routing_service.upstream.client import AnswerMemory
from routing_service.upstream.outcome import Outcome, Usage
from tests.factories import make_settings
from tests.fakes import FakePublisher
from tests.planned import Planned, make_planned_batch

ANSWER_BYTES = 100_000
PART = 10_000
LIMIT = 500_000


class LargeAnswers:
    """An upstream whose answers all come at once, part by part."""

    def __init__(self) -> None:
        self.peak = self.calls = self.most_calls = 0

    async def chat(self, model: str, body: bytes, memory: AnswerMemory, call_id: str) -> Outcome:
        self.calls += 1
        self.most_calls = max(self.most_calls, self.calls)
        try:
            raw = await memory.read(self._parts(memory), ANSWER_BYTES)
        finally:
            self.calls -= 1
        return Outcome(
            AttemptState.SUCCEEDED, EntryBasis.USAGE, 200, body=f'{{"a":"{raw.decode()}"}}', usage=Usage(3, 2)
        )

    async def _parts(self, memory: AnswerMemory) -> AsyncIterator[bytes]:
        for _ in range(ANSWER_BYTES // PART):
            await asyncio.sleep(0.001)
            yield b"x" * PART
            self.peak = max(self.peak, memory.held)


def _pump(database: Database, upstreams: LargeAnswers | FullMemory, requests: int, bite: int) -> None:
    with database.transaction() as session:
        make_planned_batch(session, [Planned(prompt=f"Prompt {n}") for n in range(requests)])
    quick = {"idle_s": 0.2, "settle_interval_ms": 20}
    settings = make_settings(dispatch=quick | {"max_held_response_bytes": LIMIT, "bite": bite})
    asyncio.run(Pump(database, settings, price_book(settings), upstreams, FakePublisher()).run())  # type: ignore[arg-type]
    with database.transaction() as session:
        assert session.scalar(text("select count(*) from requests where state = 'succeeded'")) == requests


def test_the_sum_of_the_answers_that_a_pump_holds_is_bounded(database: Database) -> None:
    upstreams = LargeAnswers()
    _pump(database, upstreams, requests=120, bite=40)
    assert upstreams.peak <= LIMIT + ANSWER_BYTES + PART * upstreams.most_calls


class FullMemory:
    """An upstream whose first answer fills the memory, and stays for a while."""

    def __init__(self) -> None:
        self.calls = 0
        self.calls_while_full: list[int] = []

    async def chat(self, model: str, body: bytes, memory: AnswerMemory, call_id: str) -> Outcome:
        self.calls += 1
        if self.calls == 1:
            memory.hold(LIMIT)
            await asyncio.sleep(0.2)  # ten rounds of claiming
            self.calls_while_full.append(self.calls)
            memory.free(LIMIT)
        return Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, 200, body="{}", usage=Usage(3, 2))


def test_nothing_is_claimed_while_the_memory_is_full(database: Database) -> None:
    upstreams = FullMemory()
    _pump(database, upstreams, requests=5, bite=1)
    assert upstreams.calls_while_full == [1]
    assert upstreams.calls == 5
