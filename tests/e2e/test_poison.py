"""A prompt on which the dispatch process dies, with real processes and leases that run out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from multiprocessing import get_context
from typing import Any

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.dispatch.sweep import sweep
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.upstream.client import AnswerMemory, Upstreams
from routing_service.upstream.outcome import Outcome, read_answer
from tests.support.chaos.stress_dispatch import AtOnce
from tests.support.factories import make_settings
from tests.support.planned import Planned, make_planned_batch

ANSWER = b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
SECTIONS: dict[str, Any] = {
    "dispatch": {"claim_chunk": 8, "lease_s": 1, "renew_s": 0.2, "settle_interval_ms": 20, "idle_s": 0.5},
    "sweep": {"interval_s": 0.2, "announce_after_s": 1},
}


class DeadlyUpstreams(Upstreams):
    """Reading the answer to one prompt kills the process, as one that takes all memory would."""

    async def chat(self, model: str, body: bytes, memory: AnswerMemory, call_id: str) -> Outcome:
        await asyncio.sleep(0.05)
        if b"poison" in body:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_answer(200, {}, ANSWER, self.models[model])


def dispatch(url: str) -> None:
    settings = make_settings(**SECTIONS)
    database = Database(url)

    async def run() -> None:
        upstreams = DeadlyUpstreams(settings.models, 1_000_000)
        while True:
            await Pump(database, settings, price_book(settings), upstreams, AtOnce(database, settings)).run()
            await asyncio.sleep(0.1)

    asyncio.run(run())


def test_a_poison_request_fails_after_three_deaths_and_the_rest_is_answered(
    database: Database, database_url: str
) -> None:
    settings = make_settings(**SECTIONS)
    with database.transaction() as session:
        prompts = [Planned(prompt="poison" if n == 30 else f"Prompt {n}") for n in range(60)]
        batch_id = make_planned_batch(session, prompts)
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    process = context.Process(target=dispatch, args=(database_url,), daemon=True)
    process.start()
    deaths, until = 0, time.monotonic() + 90
    try:
        while not ended(database, batch_id):
            assert time.monotonic() < until
            process.join(0.2)
            if process.exitcode is not None:
                assert process.exitcode == -signal.SIGKILL
                deaths += 1
                process = context.Process(target=dispatch, args=(database_url,), daemon=True)
                process.start()
            sweep(database, settings, AtOnce(database, settings))
    finally:
        process.kill()
        process.join()
    assert deaths == 3
    with database.transaction() as session:
        rows = session.execute(text("select state::text, error_code, count(*) from requests group by 1, 2 order by 1"))
        assert [tuple(row) for row in rows] == [("failed", "worker_lost", 1), ("succeeded", None, 59)]
        assert ledger.verify(session) == []


def ended(database: Database, batch_id: str) -> bool:
    with database.transaction() as session:
        query = text("select state = 'completed' from batches where id = :id")
        return bool(session.scalar(query, {"id": batch_id}))
