"""The bound on all answers that a pump holds: it is kept, and every answer is read in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing_service.upstream.client import AnswerMemory

PART = 10
LARGEST = 100


class Readers:
    """Answers that arrive in parts, all at once, and a settlement that comes round now and then."""

    def __init__(self, limit: int, answers: list[int]) -> None:
        self.memory = AnswerMemory(limit)
        self.answers = answers
        self.unsettled: list[int] = []
        self.peak = 0

    async def parts(self, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, PART):
            await asyncio.sleep(0)
            yield b"x" * min(PART, size - start)
            self.peak = max(self.peak, self.memory.held)

    async def read(self, size: int) -> int:
        raw = await self.memory.read(self.parts(size), LARGEST)
        self.memory.hold(len(raw))
        self.unsettled.append(len(raw))
        self.peak = max(self.peak, self.memory.held)
        return len(raw)

    async def settle(self) -> None:
        while True:
            for _ in range(5):
                await asyncio.sleep(0)
            while self.unsettled:
                self.memory.free(self.unsettled.pop())

    async def run(self) -> list[int]:
        settling = asyncio.create_task(self.settle())
        try:
            return await asyncio.wait_for(asyncio.gather(*map(self.read, self.answers)), 30)
        finally:
            settling.cancel()


@settings(deadline=None)
@given(limit=st.integers(1, 500), answers=st.lists(st.integers(0, LARGEST), max_size=40))
def test_all_answers_are_read_and_the_sum_stays_below_the_limit_and_one_answer(limit: int, answers: list[int]) -> None:
    readers = Readers(limit, answers)
    assert asyncio.run(readers.run()) == answers
    # Beyond the limit each answer may have brought one part, and the one whose turn it is the rest of it.
    assert readers.peak <= limit + LARGEST + PART * len(answers)


def test_many_large_answers_are_not_held_at_once() -> None:
    readers = Readers(200, [LARGEST] * 100)
    assert len(asyncio.run(readers.run())) == 100
    assert readers.peak <= 200 + LARGEST + PART * 100


def test_an_answer_above_its_own_limit_is_refused_and_takes_nothing() -> None:
    readers = Readers(50, [])

    async def run() -> None:
        with pytest.raises(ValueError, match="too large"):
            await readers.memory.read(readers.parts(LARGEST + 1), LARGEST)
        assert await readers.memory.read(readers.parts(LARGEST), LARGEST)

    asyncio.run(run())
    assert readers.memory.held == 0


def test_a_call_that_is_cancelled_while_it_waits_gives_its_turn_and_memory_back() -> None:
    readers = Readers(5, [])

    async def run() -> None:
        readers.memory.hold(5)
        waiting = [asyncio.create_task(readers.memory.read(readers.parts(20), LARGEST)) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        readers.memory.free(5)
        assert await readers.memory.read(readers.parts(20), LARGEST) == b"x" * 20

    asyncio.run(run())
    assert readers.memory.held == 0
