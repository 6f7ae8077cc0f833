"""Topping up a batch that has not ended: its limit rises once, it goes on if it waited, and money buys upgrades."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from routing_service.batches.extend import MoreMoney, top_up
from routing_service.batches.options import parse_budget
from routing_service.batches.pauses import pause_for_budget
from routing_service.db import Database
from routing_service.ingest.ingest import ingest
from routing_service.models import Batch
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.plans.replan import take_due
from tests.api_server import Api, running_api
from tests.factories import STRONG, WEAK, make_settings, planned_batch
from tests.fakes import FakePublisher
from tests.more_money import ask, shown, submit
from tests.reading import batch_of, upgraded
from tests.sandbox_server import run_sandbox
from tests.working import work

SETTINGS = make_settings(score={"range_lines": 50})
QUICK = {"idle_s": 0.3, "settle_interval_ms": 20}


def limit_of(database: Database, batch_id: str) -> int:
    with database.transaction() as session:
        found = session.scalar(text("select limit_nano from budgets where batch_id = :id"), {"id": batch_id})
    assert isinstance(found, int)
    return found


def add(database: Database, batch_id: str, usd: str) -> FakePublisher:
    """Top up through the use case; returns what it announced."""
    publisher = FakePublisher()
    owner = batch_of(database, batch_id).api_key_id
    wish = MoreMoney("top_up", batch_id, parse_budget(usd))
    assert top_up(database, SETTINGS, price_book(SETTINGS), publisher, owner, wish) == batch_id
    return publisher


def test_a_top_up_raises_the_limit_and_the_batch_object_shows_the_sum(api: Api, client: OpenAI) -> None:
    batch_id = submit(client)
    topped = ask(client, batch_id, "top_up", "2.5")
    assert topped.id == batch_id
    assert shown(topped)["budget_usd"] == shown(client.batches.retrieve(batch_id))["budget_usd"] == "3.50"
    assert batch_of(api.database, batch_id).options["budget_usd"] == "3.50"
    ask(client, batch_id, "top_up", 0.25)
    assert limit_of(api.database, batch_id) == 3_750_000_000
    assert api.publisher.events == [("ingest", batch_id)]


def test_a_batch_that_is_validated_meanwhile_is_judged_by_its_new_budget(api: Api, client: OpenAI) -> None:
    batch_id = submit(client, budget_usd="0.000001")
    ask(client, batch_id, "top_up", "1")
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    assert client.batches.retrieve(batch_id).status == "in_progress"


def test_a_batch_that_waits_for_money_goes_on_when_it_is_topped_up(database: Database) -> None:
    """`on_budget: wait`: it pauses where its money ends, and ends with every line answered once."""
    with run_sandbox(latency_ms=2) as sandbox:
        weak = WEAK | {"base_url": sandbox.base_url, "expected_output_tokens": 1}
        settings = make_settings(
            models={"strong": STRONG | {"base_url": sandbox.base_url}, "weak": weak}, dispatch=QUICK
        )
        with running_api(settings, database) as api, api.client() as client:
            batch_id = submit(client, 20, budget_usd="0.0005", on_budget="wait")
            work(database, settings, api.publisher)
            stopped = client.batches.retrieve(batch_id)
            assert (stopped.status, shown(stopped)["paused"]) == ("in_progress", "budget")
            assert stopped.request_counts is not None
            assert 0 < stopped.request_counts.completed < 20
            assert shown(ask(client, batch_id, "top_up", "1"))["paused"] is None
            work(database, settings, api.publisher)
            ended = client.batches.retrieve(batch_id)
            assert (ended.status, ended.request_counts and ended.request_counts.completed) == ("completed", 20)
            assert shown(ended)["budget_usd"] == "1.0005"
        assert sandbox.stats()["seen"]["max_repeats"] == 1
        with database.transaction() as session:
            assert ledger.verify(session) == []
            settled = session.scalar(text("select settled_nano from budgets"))
        assert settled == sandbox.billed_nano()


@pytest.mark.parametrize("options", [{}, {"mode": "target_quality", "target_quality": 0.9}])
def test_money_that_is_added_buys_upgrades(database: Database, options: dict[str, Any]) -> None:
    batch_id = planned_batch(database, 200, SETTINGS, budget_nano=300_000_000, options=options)
    before = upgraded(database, batch_of(database, batch_id))
    publisher = add(database, batch_id, "0.4")
    assert publisher.events == [("plan", batch_id), ("dispatch",)]
    publisher.events.pop()
    work(database, SETTINGS, publisher)
    after = upgraded(database, batch_of(database, batch_id))
    assert {row.line for row in before} < {row.line for row in after}
    assert len(after) > 1.5 * len(before)


def test_where_the_announcement_is_lost_the_next_answer_makes_the_new_cut_due(database: Database) -> None:
    batch_id = planned_batch(database, 200, SETTINGS, budget_nano=300_000_000)
    with database.transaction() as session:
        session.execute(text("update batches set succeeded = 100, replan_at = 110, probes = null"))
    add(database, batch_id, "0.4")
    with database.transaction() as session:
        assert take_due(session, [batch_id]) == [batch_id]


def test_another_cause_of_a_pause_is_left_alone(database: Database) -> None:
    batch_id = planned_batch(database, 5, SETTINGS)
    with database.transaction() as session:
        session.execute(text("update batches set paused = 'model_removed', paused_reason = 'gone'"))
    add(database, batch_id, "1")
    assert batch_of(database, batch_id).paused == "model_removed"
    with database.transaction() as session:
        session.execute(text("update batches set paused = null"))
        pause_for_budget(session, batch_id)
    add(database, batch_id, "1")
    batch = batch_of(database, batch_id)
    assert (batch.paused, batch.paused_reason) == (None, None)


def test_a_top_up_that_is_sent_again_adds_once(api: Api, client: OpenAI) -> None:
    """By its key, or where the SDK says that it retries; the same amount without either is more money."""
    batch_id, other = submit(client), submit(client)
    for _ in range(2):
        ask(client, batch_id, "top_up", "1", Idempotency_Key="k")
    assert limit_of(api.database, batch_id) == 2_000_000_000
    with pytest.raises(openai.ConflictError) as caught:
        ask(client, batch_id, "top_up", "2", Idempotency_Key="k")
    assert caught.value.code == "idempotency_conflict"
    ask(client, other, "top_up", "1", Idempotency_Key="k")
    assert limit_of(api.database, other) == 2_000_000_000
    ask(client, batch_id, "top_up", "0.5")
    ask(client, batch_id, "top_up", "0.50", x_stainless_retry_count="1")
    assert limit_of(api.database, batch_id) == 2_500_000_000
    ask(client, batch_id, "top_up", "0.5")
    ask(client, batch_id, "top_up", "0.7", x_stainless_retry_count="1")
    assert limit_of(api.database, batch_id) == 3_700_000_000


def test_a_top_up_that_is_sent_again_after_the_batch_has_ended_creates_nothing(api: Api, client: OpenAI) -> None:
    batch_id = submit(client)
    ask(client, batch_id, "top_up", "1", Idempotency_Key="k")
    with api.database.transaction() as session:
        session.execute(text("update batches set state = 'completed', completed_at = now(), total = 1, failed = 1"))
    assert ask(client, batch_id, "top_up", "1", Idempotency_Key="k").id == batch_id
    assert len(client.batches.list().data) == 1


def test_top_ups_at_the_same_time_add_once_under_one_key_and_each_without(api: Api, client: OpenAI) -> None:
    batch_id = submit(client)

    def send(**headers: str) -> None:
        with api.client() as own:
            ask(own, batch_id, "top_up", "1", **headers)

    threads = [threading.Thread(target=send, kwargs={"Idempotency_Key": "k"}) for _ in range(4)]
    threads += [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit_of(api.database, batch_id) == 6_000_000_000


@pytest.mark.parametrize(
    ("usd", "code"),
    [
        (None, "budget_required"),
        ("0", "invalid_budget"),
        ("-1", "invalid_budget"),
        ("much", "invalid_budget"),
        (True, "invalid_budget"),
        ("nan", "invalid_budget"),
        ("1000000", "invalid_budget"),
    ],
)
def test_an_amount_that_cannot_be_added_is_refused(api: Api, client: OpenAI, usd: Any, code: str) -> None:
    batch_id = submit(client)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, batch_id, "top_up", usd)
    assert (caught.value.code, caught.value.param) == (code, "budget_usd")
    assert limit_of(api.database, batch_id) == 1_000_000_000


def test_another_keys_batch_is_not_found(api: Api, client: OpenAI) -> None:
    batch_id = submit(client)
    with api.client(api.new_key()[1]) as other:
        for action in ("top_up", "retry"):
            with pytest.raises(openai.NotFoundError):
                ask(other, batch_id, action, "1")
    with pytest.raises(openai.NotFoundError):
        ask(client, "batch_unknown", "top_up", "1")
    with pytest.raises(openai.BadRequestError):
        client.post(f"/batches/{batch_id}/top_up", cast_to=Batch, body={"dollars": 1})
