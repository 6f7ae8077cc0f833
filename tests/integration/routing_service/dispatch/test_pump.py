"""The dispatch pump against a real Postgres and the sandbox upstream: answers, money, faults and lost leases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.pump import Pump
from routing_service.events import FinishDue
from routing_service.models import Batch
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.upstream.client import Upstreams
from tests.support.fakes import FakePublisher
from tests.support.planned import NANO, Planned, make_planned_batch
from tests.support.pumping import budget_of, pump_settings, run_pump, states_of
from tests.support.upstreams.raw import http, raw_upstream
from tests.support.upstreams.sandbox_server import Sandbox, run_sandbox


def _plan(database: Database, requests: Sequence[Planned], **options: Any) -> str:
    with database.transaction() as session:
        return make_planned_batch(session, requests, **options)


def _assert_sound(database: Database, batch_id: str, sandbox: Sandbox, *, exact: bool = False) -> None:
    """Billed <= settled (+ overrun) and settled <= limit, nothing reserved, and every balance adds up."""
    budget = budget_of(database, batch_id)
    billed = sandbox.billed_nano()
    assert budget.reserved_nano == 0
    assert billed <= budget.settled_nano + budget.overrun_nano
    assert budget.settled_nano <= budget.limit_nano
    if exact:
        assert billed == budget.settled_nano
    with database.transaction() as session:
        assert ledger.verify(session) == []


def test_every_request_is_answered_by_its_planned_model_and_billed_exactly(database: Database) -> None:
    requests = [Planned(ratio=2.0 if n % 4 == 0 else 0.5, prompt=f"Prompt {n}") for n in range(80)]
    batch_id = _plan(database, requests, shadow_price=1.0)
    with run_sandbox(latency_ms=5) as sandbox:
        publisher = run_pump(database, pump_settings(sandbox.base_url))
        _assert_sound(database, batch_id, sandbox, exact=True)
        assert sandbox.stats()["models"]["sandbox-strong"]["answered"] == 20
    assert states_of(database, batch_id) == {"succeeded": 80}
    assert FinishDue(batch_id) in publisher.events
    with database.transaction() as session:
        batch = session.get_one(Batch, batch_id)
        assert (batch.succeeded, batch.failed, batch.floor_nano) == (80, 0, 0)
        assert session.scalar(text("select count(*) from decisions where reason = 'plan'")) == 80


def test_an_answer_is_stored_character_by_character(database: Database) -> None:
    content = "\0 \\ \\u0041 \" ' {} \n\t é \U0001f600 \u2028 \x7f"
    body = {"choices": [{"message": {"content": content}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    batch_id = _plan(database, [Planned()])
    with raw_upstream(http(orjson.dumps(body))) as base_url:
        run_pump(database, pump_settings(base_url))
    with database.transaction() as session:
        stored = session.scalar(text("select response from requests where batch_id = :id"), {"id": batch_id})
    assert stored is not None
    assert orjson.loads(stored) == body


def test_faults_are_retried_and_charged_when_nobody_knows(database: Database) -> None:
    batch_id = _plan(database, [Planned(prompt=f"Prompt {n}") for n in range(60)])
    with run_sandbox(latency_ms=2, p500=0.1, reset_after=0.1, garbage=0.1, reset=0.05, seed=3) as sandbox:
        run_pump(database, pump_settings(sandbox.base_url, max_attempts=30))
        _assert_sound(database, batch_id, sandbox)
    assert states_of(database, batch_id) == {"succeeded": 60}


def test_a_429_is_obeyed_and_costs_nothing(database: Database) -> None:
    batch_id = _plan(database, [Planned(prompt=f"Prompt {n}") for n in range(12)])
    with run_sandbox(latency_ms=2, p429=0.3, seed=1) as sandbox:
        settings = pump_settings(sandbox.base_url, max_attempts=20, idle_s=5)
        run_pump(database, settings)
        _assert_sound(database, batch_id, sandbox, exact=True)
    assert states_of(database, batch_id) == {"succeeded": 12}


def test_the_attempt_limit_ends_a_request_with_its_last_cause(database: Database) -> None:
    batch_id = _plan(database, [Planned()])
    with run_sandbox(latency_ms=2, p500=1.0) as sandbox:
        run_pump(database, pump_settings(sandbox.base_url, max_attempts=3))
    assert states_of(database, batch_id) == {"failed": 1}
    with database.transaction() as session:
        row = session.execute(text("select attempts, status_code, error_code from requests")).one()
        assert (row.attempts, row.status_code) == (3, 500)


def test_a_request_refused_by_the_upstream_is_not_retried(database: Database) -> None:
    batch_id = _plan(database, [Planned(output_cap=None, prompt="x")])
    with database.transaction() as session:
        session.execute(text('update requests set body = \'{"model": "m", "messages": 7}\''))
    with run_sandbox(latency_ms=2) as sandbox:
        run_pump(database, pump_settings(sandbox.base_url))
        _assert_sound(database, batch_id, sandbox, exact=True)
    with database.transaction() as session:
        assert session.execute(text("select state, attempts, status_code from requests")).one() == ("failed", 1, 400)


def test_a_request_above_its_own_cost_cap_goes_to_the_cheap_model_or_ends(database: Database) -> None:
    requests = [
        Planned(ratio=2.0, max_cost_nano=200_000, prompt="a"),
        Planned(ratio=2.0, max_cost_nano=10, prompt="b"),
        Planned(ratio=2.0, prompt="c"),
    ]
    batch_id = _plan(database, requests, shadow_price=1.0)
    with run_sandbox(latency_ms=2) as sandbox:
        run_pump(database, pump_settings(sandbox.base_url))
    with database.transaction() as session:
        rows = session.execute(
            text("select state, model from requests where batch_id = :id order by line"), {"id": batch_id}
        )
        assert [tuple(row) for row in rows] == [("succeeded", "weak"), ("unaffordable", None), ("succeeded", "strong")]


def test_pinned_requests_go_where_they_are_pinned(database: Database) -> None:
    requests = [Planned(ratio=float("inf"), pinned="strong"), Planned(ratio=float("-inf"), pinned="weak")]
    batch_id = _plan(database, requests, shadow_price=float("inf"))
    with run_sandbox(latency_ms=2) as sandbox:
        run_pump(database, pump_settings(sandbox.base_url))
    with database.transaction() as session:
        rows = session.execute(text("select model, reason from requests order by line"))
        assert [tuple(row) for row in rows] == [("strong", "pinned"), ("weak", "pinned")]
    assert states_of(database, batch_id) == {"succeeded": 2}


def test_two_pumps_share_a_batch_and_answer_each_request_once(database: Database) -> None:
    batch_id = _plan(database, [Planned(prompt=f"Prompt {n}") for n in range(200)], budget_nano=NANO)
    with run_sandbox(latency_ms=5) as sandbox:
        settings = pump_settings(sandbox.base_url, claim_chunk=8)

        async def both() -> None:
            upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
            prices, publisher = price_book(settings), FakePublisher()
            pumps = [Pump(database, settings, prices, upstreams, publisher) for _ in range(2)]
            await asyncio.gather(*(pump.run() for pump in pumps))
            await upstreams.close()

        asyncio.run(both())
        assert sandbox.stats()["seen"]["max_repeats"] == 1
        _assert_sound(database, batch_id, sandbox, exact=True)
    assert states_of(database, batch_id) == {"succeeded": 200}
