"""What goes wrong with one batch or one answer stays with it: the pump goes on with all others.

Large answers do not fill its memory: it holds a bounded sum of them, and all requests are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.dispatch.sweep import sweep
from routing_service.events import DispatchDue
from routing_service.models import AttemptState, EntryBasis
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.upstream.client import AnswerMemory
from routing_service.upstream.outcome import Outcome, Usage
from tests.support.factories import make_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch
from tests.support.pumping import pump_settings, run_pump
from tests.support.upstreams.raw import http, raw_upstream
from tests.support.upstreams.sandbox_server import run_sandbox


def _rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.transaction() as session:
        return [tuple(row) for row in session.execute(text(query))]


def _prompts(count: int) -> list[Planned]:
    return [Planned(prompt=f"Prompt {n}") for n in range(count)]


def test_a_batch_whose_model_is_no_longer_configured_is_paused_and_others_go_on(database: Database) -> None:
    with database.transaction() as session:
        good = make_planned_batch(session, _prompts(20), priority=9)
        bad = make_planned_batch(session, _prompts(2))
        session.execute(text("update batches set candidates = '{gone,strong}' where id = :id"), {"id": bad})
    with run_sandbox(latency_ms=50) as sandbox:
        settings = pump_settings(sandbox.base_url)
        run_pump(database, settings)
        states = dict(_rows(database, "select batch_id || state, count(*) from requests group by batch_id, state"))
        assert states == {f"{good}succeeded": 20, f"{bad}scored": 2}
        assert _rows(database, f"select paused, paused_reason from batches where id = '{bad}'") == [
            ("model_removed", "The model 'gone' is no longer configured.")
        ]
        assert _rows(database, f"select paused, paused_reason from batches where id = '{good}'") == [(None, None)]
        sweep(database, settings, FakePublisher())
        assert _rows(database, "select count(*) from batches where paused is not null") == [(1,)]


def test_a_paused_batch_goes_on_when_its_model_is_back(database: Database) -> None:
    with database.transaction() as session:
        make_planned_batch(session, _prompts(4))
    with run_sandbox() as sandbox:
        settings = pump_settings(sandbox.base_url)
        without = settings.model_copy(update={"models": {"weak": settings.models["weak"]}})
        run_pump(database, without)
        assert _rows(database, "select paused from batches") == [("model_removed",)]
        publisher = FakePublisher()
        sweep(database, settings, publisher)
        assert DispatchDue() in publisher.events
        run_pump(database, settings)
    assert _rows(database, "select paused, succeeded from batches") == [(None, 4)]


def test_a_line_pinned_to_a_model_that_is_gone_ends_with_that_reason(database: Database) -> None:
    with database.transaction() as session:
        pinned = [Planned(ratio=float("-inf"), pinned="gone") for _ in range(3)]
        make_planned_batch(session, [*pinned, *_prompts(3)])
    with run_sandbox() as sandbox:
        run_pump(database, pump_settings(sandbox.base_url))
    query = "select state, error_code, count(*) from requests group by 1, 2 order by 1"
    assert _rows(database, query) == [("succeeded", None, 3), ("failed", "model_removed", 3)]
    assert _rows(database, "select succeeded, failed, floor_nano from batches") == [(3, 3, 0)]


REFUSE_LINE_7 = """
create function refuse() returns trigger language plpgsql as
    $$ begin if new.line = 7 then raise exception 'refused'; end if; return new; end $$;
create trigger refuse before update on attempts for each row execute function refuse();
"""


def test_a_result_that_cannot_be_settled_takes_no_other_with_it(database: Database) -> None:
    with database.transaction() as session:
        make_planned_batch(session, _prompts(20))
        session.execute(text(REFUSE_LINE_7))
    with run_sandbox(latency_ms=20) as sandbox:
        settings = pump_settings(sandbox.base_url)
        run_pump(database, settings)
    assert _rows(database, "select state, count(*) from requests group by state order by state") == [
        ("dispatching", 1),
        ("succeeded", 19),
    ]
    with database.transaction() as session:
        session.execute(text("drop trigger refuse on attempts"))
    sweep(database, settings, FakePublisher())  # the lease was given back: what is left is recovered at once
    assert _rows(database, "select line from requests where state = 'scored'") == [(7,)]
    with database.transaction() as session:
        assert ledger.verify(session) == []


def test_an_answer_with_an_unprintable_request_id_is_kept(database: Database) -> None:
    with database.transaction() as session:
        make_planned_batch(session, _prompts(3))
    body = (
        b'{"choices": [{"message": {"content": "a\\u0000b"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
    )
    with raw_upstream(http(body, b"X-Request-Id: r\xff\x01-1")) as url:
        run_pump(database, pump_settings(url))
    assert _rows(database, "select distinct state, request_id from requests") == [("succeeded", "r-1")]


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


def _pump(database: Database, upstreams: LargeAnswers | FullMemory, requests: int, claim_chunk: int) -> None:
    with database.transaction() as session:
        make_planned_batch(session, [Planned(prompt=f"Prompt {n}") for n in range(requests)])
    quick = {"idle_s": 0.2, "settle_interval_ms": 20}
    settings = make_settings(dispatch=quick | {"max_held_response_bytes": LIMIT, "claim_chunk": claim_chunk})
    asyncio.run(Pump(database, settings, price_book(settings), upstreams, FakePublisher()).run())  # type: ignore[arg-type]
    with database.transaction() as session:
        assert session.scalar(text("select count(*) from requests where state = 'succeeded'")) == requests


def test_the_sum_of_the_answers_that_a_pump_holds_is_bounded(database: Database) -> None:
    upstreams = LargeAnswers()
    _pump(database, upstreams, requests=120, claim_chunk=40)
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
    _pump(database, upstreams, requests=5, claim_chunk=1)
    assert upstreams.calls_while_full == [1]
    assert upstreams.calls == 5
