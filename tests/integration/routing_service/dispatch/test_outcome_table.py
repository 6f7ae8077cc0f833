"""What follows for the money from each outcome of a call: the design's table, a test a row, each with a real pump."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import claim
from routing_service.dispatch.pump import Pump
from routing_service.dispatch.settle import settle
from routing_service.dispatch.sweep import sweep
from routing_service.models import AttemptState, Batch, Budget, EntryBasis
from routing_service.money.pricing import price_book
from routing_service.upstream.client import Upstreams
from routing_service.upstream.outcome import LOST, Outcome, RetryPolicy, Usage
from tests.support.fakes import FakePublisher
from tests.support.planned import NANO, Planned, make_planned_batch
from tests.support.pumping import Closed, budget_of, closed_attempt, pump_settings, run_pump, states_of
from tests.support.upstreams.raw import http, raw_upstream
from tests.support.upstreams.sandbox_server import Sandbox, run_sandbox

USAGE: dict[str, Any] = {"prompt_tokens": 20, "completion_tokens": 5}
INPUT, CACHED, OUTPUT = 150, 15, 600  # the weak model's prices in nano-dollars a token
PRICED = {"cached_input_usd_per_million": "0.015", "input_usd_per_million": "0.15", "output_usd_per_million": "0.6"}
NOWHERE = "http://127.0.0.1:9/v1"


def _answer(usage: Any = USAGE) -> bytes:
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "4"}}]}
    return json.dumps(body | ({"usage": usage} if usage else {})).encode()


def _plan(database: Database, limit_nano: int = NANO) -> str:
    """A batch of one request, which lies below the cut: for the weak model."""
    with database.transaction() as session:
        return make_planned_batch(session, [Planned(ratio=0.5)], budget_nano=limit_nano, shadow_price=1.0)


def _called(database: Database, base_url: str, **model: Any) -> Closed:
    """One request, one call, and what became of it."""
    batch_id = _plan(database)
    run_pump(database, pump_settings(base_url, PRICED | model, max_attempts=1))
    return closed_attempt(database, batch_id)


def _assert_released(closed: Closed) -> None:
    assert (closed.state, closed.kind, closed.basis) == ("refused", "release", "unbilled")
    assert closed.settled == 0 < closed.reserved


def _assert_settled_in_full(closed: Closed, error: str, billed: int | None = None) -> None:
    assert (closed.state, closed.kind, closed.basis) == ("unknown", "settle", "unknown")
    assert closed.error == error
    assert (billed or 0) <= closed.settled == closed.reserved


def test_never_connected_releases(database: Database) -> None:
    _assert_released(_called(database, NOWHERE))


@pytest.mark.parametrize("status", [b"400 Bad Request", b"401 Unauthorized", b"404 Not Found", b"413 Too Large"])
def test_4xx_releases(database: Database, status: bytes) -> None:
    with raw_upstream(http(b'{"error": {"message": "no"}}', status=status)) as url:
        _assert_released(_called(database, url))


def test_429_releases(database: Database) -> None:
    with run_sandbox(latency_ms=0, p429=1.0) as sandbox:
        _assert_released(_called(database, sandbox.base_url))
        assert sandbox.stats()["calls"] == 1
        assert sandbox.billed_nano() == 0


def test_200_with_usage_settles_by_usage_and_releases_the_rest(database: Database) -> None:
    with raw_upstream(http(_answer())) as url:
        closed = _called(database, url)
    assert (closed.state, closed.kind, closed.basis) == ("succeeded", "settle", "usage")
    assert closed.settled == 20 * INPUT + 5 * OUTPUT < closed.reserved


def test_200_with_cached_input_settles_it_at_its_own_price(database: Database) -> None:
    with raw_upstream(http(_answer(USAGE | {"prompt_tokens_details": {"cached_tokens": 16}}))) as url:
        closed = _called(database, url)
    assert closed.settled == 4 * INPUT + 16 * CACHED + 5 * OUTPUT


@pytest.mark.parametrize(("reasoning", "output"), [(3, 5), (40, 45)])
def test_200_with_reasoning_settles_it_as_output(database: Database, reasoning: int, output: int) -> None:
    """Inside of `completion_tokens`, as OpenAI counts it, and beside it, as others do."""
    usage = USAGE | {"total_tokens": 20 + output, "completion_tokens_details": {"reasoning_tokens": reasoning}}
    with raw_upstream(http(_answer(usage))) as url:
        closed = _called(database, url)
    assert closed.settled == 20 * INPUT + output * OUTPUT


def test_200_without_usage_settles_in_full_as_estimated(database: Database) -> None:
    with run_sandbox(latency_ms=0, no_usage=1.0) as sandbox:
        closed = _called(database, sandbox.base_url)
        assert 0 < sandbox.billed_nano() <= closed.settled
    assert (closed.state, closed.kind, closed.basis) == ("succeeded", "settle", "estimated")
    assert closed.settled == closed.reserved


def test_timeout_settles_in_full_as_unknown(database: Database) -> None:
    with run_sandbox(latency_ms=0, hang=1.0) as sandbox:
        closed = _called(database, sandbox.base_url, timeout_s=0.3)
        _assert_settled_in_full(closed, "timeout", sandbox.billed_nano())


@pytest.mark.parametrize("fault", ["reset", "reset_after"])
def test_reset_settles_in_full_as_unknown(database: Database, fault: str) -> None:
    """Whether the upstream had done the work and billed it, or not."""
    with run_sandbox(**{"latency_ms": 0, fault: 1.0}) as sandbox:
        closed = _called(database, sandbox.base_url)
        assert bool(sandbox.billed_nano()) == (fault == "reset_after")
        _assert_settled_in_full(closed, "connection_error", sandbox.billed_nano())


def test_garbage_settles_in_full_as_unknown(database: Database) -> None:
    with run_sandbox(latency_ms=0, garbage=1.0) as sandbox:
        closed = _called(database, sandbox.base_url)
        assert sandbox.billed_nano()
        _assert_settled_in_full(closed, "invalid_answer", sandbox.billed_nano())


@pytest.mark.parametrize("status", [b"500 Internal Server Error", b"502 Bad Gateway", b"503 Service Unavailable"])
def test_5xx_settles_in_full_as_unknown(database: Database, status: bytes) -> None:
    with raw_upstream(http(b"{}", status=status)) as url:
        _assert_settled_in_full(_called(database, url), f"http_{status[:3].decode()}")


def test_5xx_releases_where_the_model_does_not_bill_it(database: Database) -> None:
    with raw_upstream(http(b"{}", status=b"500 Internal Server Error")) as url:
        _assert_released(_called(database, url, bill_on_5xx=False))


def test_stream_cut_settles_in_full_as_unknown(database: Database) -> None:
    with raw_upstream(http(_answer())[:-10]) as url:
        _assert_settled_in_full(_called(database, url), "connection_error")


def test_client_cancel_settles_in_full_as_unknown(database: Database) -> None:
    """The pump breaks off a call that it has sent; what it leaves behind is closed by the sweep."""
    batch_id = _plan(database)
    with run_sandbox(latency_ms=0, hang=1.0) as sandbox:
        settings = pump_settings(sandbox.base_url, max_attempts=1)

        async def run() -> None:
            upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
            pump = Pump(database, settings, price_book(settings), upstreams, FakePublisher())
            running = asyncio.create_task(pump.run())
            await asyncio.to_thread(_until_billed, sandbox)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await upstreams.close()

        asyncio.run(run())
        sweep(database, settings, FakePublisher())
        _assert_settled_in_full(closed_attempt(database, batch_id), "worker_lost", sandbox.billed_nano())


def _until_billed(sandbox: Sandbox) -> None:
    for _ in range(20_000):  # each turn is a round trip
        if sandbox.billed_nano():
            return
    raise AssertionError("the call never arrived")


def test_worker_death_settles_in_full_as_unknown_and_a_late_result_never_changes_it(database: Database) -> None:
    batch_id = _plan(database)
    settings = pump_settings(NOWHERE)
    held = lease.open_lease(database, 30)
    with database.transaction() as session:
        slots = {"weak": 1, "strong": 1}
        (ticket,) = claim(session, settings, price_book(settings), held.pump_id, batch_id, slots).tickets
    sweep(database, settings, FakePublisher())
    assert states_of(database, batch_id) == {"dispatching": 1}  # its lease still holds
    lease.close_lease(database, held)
    sweep(database, settings, FakePublisher())
    assert states_of(database, batch_id) == {"scored": 1}  # to be asked again, and back under the floor
    with database.transaction() as session:
        assert session.get_one(Batch, batch_id).floor_nano == 1000
    before = closed_attempt(database, batch_id)
    _assert_settled_in_full(before, "worker_lost")
    late = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=Usage(20, 5))
    for outcome in (late, LOST):
        result = ticket.result(outcome)
        with database.transaction() as session:
            settle(session, [result], RetryPolicy.of(settings.dispatch), random.Random(0))
    assert closed_attempt(database, batch_id) == before


def test_usage_above_the_reservation_settles_it_and_stops_the_model(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit covers it: nothing is an overrun of the budget, but the model's bounds are wrong."""
    budget = _billed_above(database, USAGE | {"completion_tokens": 5000}, limit_nano=NANO)
    assert (budget.settled_nano, budget.overrun_nano) == (20 * INPUT + 5000 * OUTPUT, 0)
    assert "model weak was billed above its bounds" in caplog.text


@pytest.mark.parametrize("tokens", [5000, 1e19])
def test_usage_above_the_limit_is_an_overrun_and_stops_the_model(database: Database, tokens: float) -> None:
    """However much it is: also a count that no column could keep."""
    budget = _billed_above(database, USAGE | {"completion_tokens": tokens}, limit_nano=1_000_000)
    kept = min(int(tokens), 2**31 - 1)
    assert budget.settled_nano == 1_000_000 == budget.limit_nano
    assert budget.settled_nano + budget.overrun_nano == 20 * INPUT + kept * OUTPUT


def _billed_above(database: Database, usage: Any, limit_nano: int) -> Budget:
    """The budget of a batch that such an answer has come for; another batch then waits for the model in vain."""
    batch_id = _plan(database, limit_nano)
    with raw_upstream(http(_answer(usage))) as url:
        run_pump(database, pump_settings(url, PRICED))
        other = _plan(database)
        run_pump(database, pump_settings(url, PRICED, claim_s=0.5))
    assert (states_of(database, batch_id), states_of(database, other)) == ({"succeeded": 1}, {"scored": 1})
    closed = closed_attempt(database, batch_id)
    assert (closed.state, closed.kind, closed.basis) == ("succeeded", "settle", "usage")
    return budget_of(database, batch_id)
