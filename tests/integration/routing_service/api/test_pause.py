"""Pausing and resuming at the client's wish, over HTTP: what each state answers, and that nothing else starts it."""

from __future__ import annotations

import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from routing_service.batches.lifecycle import pause
from routing_service.batches.pauses import pause_for_budget
from routing_service.db import Database
from routing_service.dispatch.fairness import runnable_batches
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.events import DispatchDue, FinishDue, ScoreDue
from routing_service.ingest.ingest import ingest
from routing_service.models import BatchState
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from tests.support.api_server import Api
from tests.support.extend import ask, completed, shown, submit
from tests.support.factories import ingested_batch, make_settings, planned_batch, previewed_batch, score_all
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of

SETTINGS = make_settings()


def pause_it(database: Database, batch_id: str) -> None:
    pause(database, batch_of(database, batch_id).api_key_id, batch_id)


def running(api: Api, client: OpenAI) -> str:
    """A planned batch of the key."""
    batch_id = submit(client)
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    score_all(api.database, api.settings, batch_id)
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    api.publisher.events.clear()
    return batch_id


def test_a_paused_batch_says_so_and_resuming_rings_the_pump(api: Api, client: OpenAI) -> None:
    batch_id = running(api, client)
    for _ in range(2):  # the SDK may send it again
        paused = ask(client, batch_id, "pause")
        assert (paused.status, shown(paused)["paused"]) == ("in_progress", "client")
        assert shown(paused)["paused_reason"] == "Its client paused it."
        assert runnable_batches(api.database) == []
    assert api.publisher.events == []
    for _ in range(2):
        resumed = ask(client, batch_id, "resume")
        assert (shown(resumed)["paused"], shown(resumed)["paused_reason"]) == (None, None)
    assert api.publisher.events == [DispatchDue()] * 2
    assert [batch.batch_id for batch in runnable_batches(api.database)] == [batch_id]


def test_a_batch_paused_before_it_is_read_is_planned_and_then_stands_still(api: Api, client: OpenAI) -> None:
    batch_id = submit(client)
    assert shown(ask(client, batch_id, "pause"))["paused"] == "client"
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    score_all(api.database, api.settings, batch_id)
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    assert runnable_batches(api.database) == []
    ask(client, batch_id, "resume")
    assert [batch.batch_id for batch in runnable_batches(api.database)] == [batch_id]


def test_scoring_that_nobody_announced_is_announced_though_the_batch_is_paused(database: Database) -> None:
    batch_id = ingested_batch(database, 3, SETTINGS)
    pause_it(database, batch_id)
    with database.transaction() as session:
        session.execute(text("update score_ranges set announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(database, SETTINGS, publisher)
    assert publisher.events == [ScoreDue(batch_id, 1)]


def test_neither_money_nor_the_sweep_starts_what_its_client_paused(api: Api, client: OpenAI) -> None:
    batch_id = running(api, client)
    with api.database.transaction() as session:
        pause_for_budget(session, batch_id)
    assert shown(ask(client, batch_id, "pause"))["paused"] == "client"
    assert shown(ask(client, batch_id, "top_up", "1"))["paused"] == "client"
    with api.database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(api.database, api.settings, publisher)
    assert DispatchDue() not in publisher.events
    assert batch_of(api.database, batch_id).paused == "client"


def test_what_stands_still_for_another_cause_is_not_resumed(api: Api, client: OpenAI) -> None:
    batch_id = running(api, client)
    with api.database.transaction() as session:
        pause_for_budget(session, batch_id)
    with pytest.raises(openai.ConflictError, match=r"paused: budget\. The budget does not cover") as caught:
        ask(client, batch_id, "resume")
    assert caught.value.code == "not_paused_by_client"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert batch_of(api.database, batch_id).paused == "budget"


def test_a_plan_that_waits_to_be_approved_is_neither_paused_nor_resumed(api: Api, client: OpenAI) -> None:
    batch_id = previewed_batch(api.database, 3, api.settings)
    with api.database.transaction() as session:
        session.execute(text("update batches set api_key_id = :key"), {"key": api.key_id})
    for action in ("pause", "resume"):
        with pytest.raises(openai.ConflictError) as caught:
            ask(client, batch_id, action)
        assert caught.value.code == "plan_not_approved"
    assert batch_of(api.database, batch_id).paused == "approval"


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_batch_that_ends_or_has_ended_is_neither_paused_nor_resumed(api: Api, client: OpenAI, action: str) -> None:
    ended, ending = completed(api, client), running(api, client)
    client.batches.cancel(ending)
    for batch_id, status in ((ended, "completed"), (ending, "cancelling")):
        with pytest.raises(openai.ConflictError, match=f"Cannot {action} a batch with status '{status}'"):
            ask(client, batch_id, action)


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_another_keys_batch_is_neither_paused_nor_resumed(api: Api, client: OpenAI, action: str) -> None:
    batch_id = running(api, client)
    with api.client(api.new_key()[1]) as other, pytest.raises(openai.NotFoundError):
        ask(other, batch_id, action)


def test_a_paused_batch_is_cancelled_like_any_other(api: Api, client: OpenAI) -> None:
    batch_id = running(api, client)
    ask(client, batch_id, "pause")
    cancelling = client.batches.cancel(batch_id)
    assert (cancelling.status, shown(cancelling)["paused"]) == ("cancelling", None)
    assert finish(api.database, batch_id)
    assert client.batches.retrieve(batch_id).status == "cancelled"


def test_a_paused_batch_expires_and_says_why_it_waited(api: Api, client: OpenAI) -> None:
    batch_id = running(api, client)
    ask(client, batch_id, "pause")
    with api.database.transaction() as session:
        session.execute(text("update batches set expires_at = now(), announced_at = now() - interval '1 hour'"))
    publisher = FakePublisher()
    sweep(api.database, api.settings, publisher)
    assert publisher.events == [FinishDue(batch_id)]
    assert finish(api.database, batch_id)
    expired = client.batches.retrieve(batch_id)
    assert (expired.status, shown(expired)["paused"]) == ("expired", "client")


def test_a_batch_that_fails_its_validation_while_it_is_paused_is_not_shown_as_paused(api: Api, client: OpenAI) -> None:
    batch_id = submit(client, 5, budget_usd="0.000001")
    ask(client, batch_id, "pause")
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id) is BatchState.FAILED
    failed = client.batches.retrieve(batch_id)
    assert (failed.status, shown(failed)["paused"]) == ("failed", None)


def test_a_batch_whose_last_calls_come_back_while_it_is_paused_completes(database: Database) -> None:
    batch_id = planned_batch(database, 2, SETTINGS)
    pause_it(database, batch_id)
    with database.transaction() as session:
        session.execute(text("update requests set state = 'succeeded', response = '{}', finished_at = now()"))
        session.execute(text("update batches set succeeded = 2"))
    assert finish(database, batch_id)
    assert batch_of(database, batch_id).state is BatchState.COMPLETED
