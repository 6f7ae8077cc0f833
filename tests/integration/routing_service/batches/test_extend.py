"""Giving a batch more money: while it runs (top up), or once it has ended incomplete (retry).

A batch that runs has its limit raised once, goes on if it waited, and buys upgrades. One that has ended is continued
by another, which asks exactly the lines that have no answer.
"""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import select, text

from routing_service.batches.extend import MoreMoney, top_up
from routing_service.batches.options import parse_budget
from routing_service.batches.pauses import pause_for_budget
from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.events import DispatchDue, IngestDue, PlanDue
from routing_service.ingest.ingest import ingest
from routing_service.models import Batch, Request
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.plans.replan import take_due
from tests.support.api_server import Api, running_api
from tests.support.extend import ask, completed, end, shown, submit
from tests.support.factories import STRONG, WEAK, chat_line, make_settings, planned_batch
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of, upgraded
from tests.support.upstreams.sandbox_server import run_sandbox
from tests.support.working import work


def custom_ids(database: Database, batch_id: str) -> list[str]:
    query = select(Request.custom_id).where(Request.batch_id == batch_id).order_by(Request.line)
    with database.transaction() as session:
        return list(session.scalars(query))


def read(api: Api, batch_id: str) -> list[str]:
    """Ingest a continuation; the custom ids that it asks."""
    ingest(api.database, api.settings, price_book(api.settings), batch_id)
    return custom_ids(api.database, batch_id)


def test_a_batch_stopped_by_its_budget_is_topped_up_and_asks_only_what_is_unanswered(database: Database) -> None:
    """`on_budget: stop`, the whole way: no line is asked twice, and every account agrees."""
    with run_sandbox(latency_ms=2) as sandbox:
        weak = WEAK | {"base_url": sandbox.base_url, "expected_output_tokens": 1}
        models = {"strong": STRONG | {"base_url": sandbox.base_url}, "weak": weak}
        settings = make_settings(models=models, dispatch={"idle_s": 0.3, "settle_interval_ms": 20})
        with running_api(settings, database) as api, api.client() as client:
            first = submit(client, 20, budget_usd="0.0005")
            work(database, settings, api.publisher)
            stopped = client.batches.retrieve(first)
            assert (stopped.status, shown(stopped)["incomplete"]) == ("completed", True)
            counts = stopped.request_counts
            assert counts is not None
            assert 0 < counts.completed < 20
            second = ask(client, first, "top_up", "1")
            assert (second.status, shown(second)["continues"], shown(second)["budget_usd"]) == (
                "validating",
                first,
                "1.00",
            )
            assert shown(client.batches.retrieve(first))["continued_by"] == second.id
            work(database, settings, api.publisher)
            ended = client.batches.retrieve(second.id)
            assert ended.status == "completed"
            assert ended.request_counts is not None
            assert (ended.request_counts.total, ended.request_counts.failed) == (20 - counts.completed, 0)
            answers = [client.files.content(b.output_file_id or "").text for b in (stopped, ended)]
        stats = sandbox.stats()
        assert stats["seen"]["max_repeats"] == 1
        assert sum(model["answered"] for model in stats["models"].values()) == 20
        assert sum(text.count('"custom_id"') for text in answers) == 20
        with database.transaction() as session:
            assert ledger.verify(session) == []
            assert session.scalar(text("select sum(settled_nano) from budgets")) == sandbox.billed_nano()


def test_a_continuation_has_the_key_options_and_metadata_of_its_batch_and_a_window_of_its_own(
    api: Api, client: OpenAI
) -> None:
    first = completed(api, client, priority=7, on_budget="wait")
    with api.database.transaction() as session:
        session.execute(text("update batches set created_at = created_at - interval '1 day', expires_at = now()"))
    second = ask(client, first, "retry", "2")
    assert api.publisher.events == [IngestDue(second.id)]
    assert (second.metadata, second.completion_window) == ({"team": "x"}, "24h")
    assert second.expires_at == second.created_at + 86400
    before, after = batch_of(api.database, first), batch_of(api.database, second.id)
    assert after.options == before.options | {"budget_usd": "2"}
    assert (after.api_key_id, after.priority, after.router) == (before.api_key_id, 7, "random")
    assert read(api, second.id) == custom_ids(api.database, first)[2:]
    assert batch_of(api.database, second.id).total == 3


def test_lines_are_taken_over_as_they_are_but_for_what_became_of_them(api: Api, client: OpenAI) -> None:
    lines = [chat_line("a"), chat_line("b", "Why?", routing={"model": "strong", "max_cost_usd": "0.5", "priority": 3})]
    first = submit(client, lines)
    ingest(api.database, api.settings, price_book(api.settings), first)
    with api.database.transaction() as session:
        session.execute(text("update requests set attempts = 3, not_before = now(), model = 'weak', ratio = 1"))
    end(api, first, answered=1)
    second = ask(client, first, "retry").id
    assert read(api, second) == ["b"]
    with api.database.transaction() as session:
        old = session.get_one(Request, (first, 2))
        new = session.get_one(Request, (second, 1))
    for name in ("custom_id", "body", "pinned", "max_cost_nano", "input_bytes", "output_cap", "choices", "priority"):
        assert getattr(new, name) == getattr(old, name)
    assert (new.state, new.attempts, new.not_before, new.model, new.ratio) == ("queued", 0, None, None, None)
    assert new.floor_nano > 0


def test_a_retry_may_spend_what_its_batch_left_unspent_or_what_it_is_given(api: Api, client: OpenAI) -> None:
    assert shown(ask(client, completed(api, client), "retry"))["budget_usd"] == "0.75"
    assert shown(ask(client, completed(api, client), "retry", "3"))["budget_usd"] == "3.00"
    assert shown(ask(client, completed(api, client), "top_up", "3"))["budget_usd"] == "3.00"


def test_a_retry_without_any_money_is_refused(api: Api, client: OpenAI) -> None:
    spent = completed(api, client, budget_usd="0.25")
    overrun = completed(api, client)
    with api.database.transaction() as session:
        session.execute(text("update budgets set overrun_nano = 750000000 where batch_id = :id"), {"id": overrun})
    for batch_id in (spent, overrun):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, batch_id, "retry")
        assert (caught.value.code, caught.value.param) == ("budget_required", "budget_usd")
        assert ask(client, batch_id, "retry", "1").status == "validating"


def test_a_batch_is_continued_once_and_the_second_is_told_by_whom(api: Api, client: OpenAI) -> None:
    first = completed(api, client)
    second = ask(client, first, "retry").id
    for action in ("retry", "top_up"):
        with pytest.raises(openai.ConflictError, match=second) as caught:
            ask(client, first, action, "1")
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(client.batches.list().data) == 2


def test_a_continuation_that_failed_its_validation_may_be_followed_by_another(api: Api, client: OpenAI) -> None:
    first = completed(api, client)
    failed = ask(client, first, "retry", "0.000001").id
    assert read(api, failed) == []
    shown_failed = client.batches.retrieve(failed)
    assert shown_failed.status == "failed"
    assert shown_failed.errors is not None
    assert shown_failed.errors.data is not None
    assert [e.code for e in shown_failed.errors.data] == ["budget_too_small"]
    assert shown(client.batches.retrieve(first))["continued_by"] is None
    third = ask(client, first, "retry").id
    assert shown(client.batches.retrieve(first))["continued_by"] == third
    assert len(read(api, third)) == 3


def test_a_continuation_is_continued_in_turn(api: Api, client: OpenAI) -> None:
    first = completed(api, client)
    second = ask(client, first, "retry", "1").id
    assert read(api, second) == ["request-3", "request-4", "request-5"]
    end(api, second, answered=2)
    third = ask(client, second, "top_up", "1").id
    assert read(api, third) == ["request-5"]
    chain = [shown(client.batches.retrieve(batch_id)) for batch_id in (first, second, third)]
    assert [link["continues"] for link in chain] == [None, first, second]
    assert [link["continued_by"] for link in chain] == [second, third, None]


def test_a_retry_that_is_sent_again_finds_its_continuation(api: Api, client: OpenAI) -> None:
    first, other = completed(api, client), completed(api, client)
    second = ask(client, first, "retry", "1", Idempotency_Key="k").id
    assert ask(client, first, "retry", 1.0, Idempotency_Key="k").id == second
    with pytest.raises(openai.ConflictError) as caught:
        ask(client, other, "retry", "1", Idempotency_Key="k")
    assert caught.value.code == "idempotency_conflict"
    third = ask(client, other, "top_up", "1").id
    assert ask(client, other, "top_up", "1", x_stainless_retry_count="1").id == third
    assert api.publisher.events == [IngestDue(second), IngestDue(third)]


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k"}])
def test_retries_at_the_same_time_make_one_continuation(api: Api, client: OpenAI, headers: dict[str, str]) -> None:
    first = completed(api, client)
    actual: list[str] = []

    def send() -> None:
        with api.client() as own:
            try:
                actual.append(ask(own, first, "retry", **headers).id)
            except openai.ConflictError as error:
                actual.append(str(error.code))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second = shown(client.batches.retrieve(first))["continued_by"]
    assert sorted(actual) == [second] * 8 if headers else sorted([second] + ["batch_continued"] * 7)


def test_a_crash_before_the_lines_are_copied_costs_nothing(api: Api, client: OpenAI) -> None:
    """The continuation stands without lines and nobody was told: the sweep has them copied, once."""
    first = completed(api, client)
    second = ask(client, first, "retry").id
    with api.database.transaction() as session:
        session.execute(
            text("update batches set announced_at = now() - interval '1 hour' where id = :id"), {"id": second}
        )
    publisher = FakePublisher()
    sweep(api.database, api.settings, publisher)
    assert publisher.events == [IngestDue(second)]
    for _ in range(2):
        assert len(read(api, second)) == 3


def test_what_was_uploaded_may_be_deleted_before_a_retry(api: Api, client: OpenAI) -> None:
    first = completed(api, client)
    client.files.delete(client.batches.retrieve(first).input_file_id)
    second = ask(client, first, "retry").id
    assert len(read(api, second)) == 3


def test_a_line_pinned_to_a_model_that_is_gone_does_not_hold_back_the_others(api: Api, client: OpenAI) -> None:
    lines = [chat_line("a"), chat_line("b", routing={"model": "strong"}), chat_line("c")]
    first = submit(client, lines)
    ingest(api.database, api.settings, price_book(api.settings), first)
    end(api, first, answered=1)
    with api.database.transaction() as session:
        session.execute(text("update requests set pinned = 'gone' where line = 2"))
    assert read(api, ask(client, first, "retry").id) == ["b", "c"]


STATES = {
    "validating": "",
    "in_progress": "",
    "cancelling": "",
    "failed": ", failed_at = now()",
    "expired": ", expired_at = now()",
    "cancelled": ", cancelled_at = now()",
}


@pytest.mark.parametrize("state", STATES)
def test_a_batch_in_another_state_is_not_continued(api: Api, client: OpenAI, state: str) -> None:
    batch_id = completed(api, client)
    with api.database.transaction() as session:
        unfinished = ", failed = 1" if state in ("validating", "in_progress") else ""
        session.execute(text(f"update batches set state = '{state}', completed_at = null{STATES[state]}{unfinished}"))
    with pytest.raises(openai.ConflictError, match=f"status '{state}'") as caught:
        ask(client, batch_id, "retry", "1")
    assert caught.value.response.headers["x-should-retry"] == "false"
    if state not in ("validating", "in_progress"):
        with pytest.raises(openai.ConflictError, match="top up"):
            ask(client, batch_id, "top_up", "1")


@pytest.mark.parametrize("state", ["finalizing", "in_progress"])
def test_a_batch_about_to_complete_is_to_be_asked_again_in_a_moment(api: Api, client: OpenAI, state: str) -> None:
    batch_id = completed(api, client)
    with api.database.transaction() as session:
        session.execute(text(f"update batches set state = '{state}', completed_at = null"))
    for action in ("retry", "top_up"):
        with pytest.raises(openai.ConflictError) as caught:
            ask(client, batch_id, action, "1")
        assert caught.value.code == "batch_finalizing"
        assert caught.value.response.headers["x-should-retry"] == "true"


def test_a_batch_with_every_line_answered_has_nothing_to_continue(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client, answered=5, left=0)
    for action in ("retry", "top_up"):
        with pytest.raises(openai.ConflictError, match="is answered"):
            ask(client, batch_id, action, "1")


SETTINGS = make_settings(score={"range_lines": 50})
QUICK = {"idle_s": 0.3, "settle_interval_ms": 20}


def limit_of(database: Database, batch_id: str) -> int:
    with database.transaction() as session:
        value = session.scalar(text("select limit_nano from budgets where batch_id = :id"), {"id": batch_id})
    assert isinstance(value, int)
    return value


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
    assert api.publisher.events == [IngestDue(batch_id)]


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
    assert publisher.events == [PlanDue(batch_id), DispatchDue()]
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
