"""Answers of earlier batches: whose, which and how old they may be, and what a client sees of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from openai import OpenAI
from openai.types import Batch as BatchObject
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.models import Request
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.money.reports import costs_by_batch
from routing_service.plans.replan import replan
from routing_service.settings import Settings
from tests.support.api_server import Api, running_api
from tests.support.client import routing
from tests.support.extend import ask, submit
from tests.support.factories import STRONG, WEAK, lines, make_settings, requests_of
from tests.support.fakes import FakePublisher
from tests.support.reading import batch_of
from tests.support.upstreams.sandbox_server import Sandbox, run_sandbox
from tests.support.working import work

PROMPTS = [f"What is {n} times 12?" for n in range(8)]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with run_sandbox(latency_ms=2) as sandbox:
        yield sandbox


def settings_of(sandbox: Sandbox, *, weak: dict[str, Any] | None = None, **dispatch: Any) -> Settings:
    at = {"base_url": sandbox.base_url}
    models = {"strong": STRONG | at, "weak": WEAK | at | (weak or {})}
    return make_settings(models=models, dispatch={"idle_s": 0.3, "settle_interval_ms": 20} | dispatch)


def asked(sandbox: Sandbox) -> int:
    """Calls that the upstream answered until now."""
    return sum(int(model["answered"]) for model in sandbox.stats()["models"].values())


def run(api: Api, client: OpenAI, prompts: Sequence[str] = PROMPTS, dedupe: str = "key", **more: Any) -> BatchObject:
    batch_id = submit(client, lines(*prompts), dedupe=dedupe, **more)
    work(api.database, api.settings, api.publisher)
    return client.batches.retrieve(batch_id)


def output(client: OpenAI, batch: BatchObject) -> dict[str, dict[str, Any]]:
    """The responses by custom id."""
    assert batch.output_file_id
    rows = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    return {row["custom_id"]: row["response"] for row in rows}


def cached(batch: BatchObject) -> int:
    return int(routing(batch)["cached"]["count"])


def test_an_earlier_answer_of_the_key_is_given_again_without_a_call(database: Database, sandbox: Sandbox) -> None:
    with running_api(settings_of(sandbox), database) as api, api.client() as client:
        first = run(api, client)
        second = run(api, client, [*PROMPTS, "something new"])
        before, after = output(client, first), output(client, second)
    assert asked(sandbox) == len(PROMPTS) + 1
    assert cached(first) == 0
    assert cached(second) == len(PROMPTS)
    assert second.request_counts
    assert (second.status, second.request_counts.completed, second.request_counts.failed) == ("completed", 9, 0)
    for number in range(1, 9):
        old, new = before[f"c-{number}"], after[f"c-{number}"]
        assert new["body"] == old["body"]
        assert new["routing"] == old["routing"] | {"reason": "cached", "cost_usd": "0.00"}
    paid = sum(float(response["routing"]["cost_usd"]) for response in before.values())
    assert float(routing(second)["cached"]["saved_usd"]) == pytest.approx(paid)
    assert routing(second)["settled_usd"] == after["c-9"]["routing"]["cost_usd"]
    batch = batch_of(database, second.id)
    assert batch.floor_nano == 0
    with database.transaction() as session:
        assert ledger.verify(session) == []
        assert float(costs_by_batch(session, batch_id=second.id).rows[0]["cached_saved_usd"]) == pytest.approx(paid)


def test_a_key_never_gets_the_answers_of_another(database: Database, sandbox: Sandbox) -> None:
    with running_api(settings_of(sandbox), database) as api:
        _, secret = api.new_key()
        with api.client() as mine, api.client(secret) as others:
            run(api, mine)
            assert cached(run(api, others)) == 0
            assert cached(run(api, others)) == len(PROMPTS)
    assert asked(sandbox) == 2 * len(PROMPTS)


@pytest.mark.parametrize(("first", "second"), [("batch", "key"), ("key", "batch"), ("deterministic", "deterministic")])
def test_both_batches_must_have_opted_in(database: Database, sandbox: Sandbox, first: str, second: str) -> None:
    with running_api(settings_of(sandbox), database) as api, api.client() as client:
        run(api, client, dedupe=first)
        assert cached(run(api, client, dedupe=second)) == 0


@pytest.mark.parametrize(
    ("weak", "expected"),
    [({}, len(PROMPTS)), ({"name": "another-model"}, 0), ({"max_output_tokens": 511}, 0), ({"overhead_tokens": 17}, 0)],
)
def test_an_answer_counts_only_for_the_same_upstream_model_and_caps(
    database: Database, sandbox: Sandbox, weak: dict[str, Any], expected: int
) -> None:
    routed: dict[str, Any] = {"mode": "share", "strong_share": 0}
    with running_api(settings_of(sandbox), database) as api, api.client() as client:
        run(api, client, **routed)
    changed = settings_of(sandbox, weak=weak)
    with running_api(changed, database) as api, api.client(api.new_key()[1]) as client:
        with database.transaction() as session:
            session.execute(text("update batches set api_key_id = (select id from api_keys where name = 'other')"))
        assert cached(run(api, client, **routed)) == expected


def test_an_answer_of_another_model_is_not_reused(database: Database, sandbox: Sandbox) -> None:
    with running_api(settings_of(sandbox), database) as api, api.client() as client:
        run(api, client, mode="share", strong_share=0)
        assert cached(run(api, client, mode="share", strong_share=1)) == 0


def test_an_answer_that_is_too_old_is_not_reused_and_the_sweep_forgets_it(database: Database, sandbox: Sandbox) -> None:
    settings = settings_of(sandbox, reuse_answers_s=3600)
    with running_api(settings, database) as api, api.client() as client:
        old = run(api, client)
        with database.transaction() as session:
            session.execute(text("update requests set finished_at = now() - interval '61 minutes' where line <= 3"))
        assert cached(run(api, client)) == len(PROMPTS) - 3
        sweep(database, settings, FakePublisher())
    kept = [request.line for request in requests_of(database, old.id) if request.call_digest]
    assert kept == [4, 5, 6, 7, 8]


def test_a_reused_answer_grows_no_younger(database: Database, sandbox: Sandbox) -> None:
    with running_api(settings_of(sandbox), database) as api, api.client() as client:
        first = run(api, client)
        assert cached(run(api, client)) == len(PROMPTS)
        with database.transaction() as session:
            session.execute(
                text("update requests set finished_at = now() - interval '8 days' where batch_id = :id"),
                {"id": first.id},
            )
        assert cached(run(api, client)) == 0


def test_a_prompt_that_failed_is_asked_again(database: Database) -> None:
    with (
        run_sandbox(latency_ms=2, p500=1.0) as broken,
        running_api(settings_of(broken, max_attempts=1), database) as api,
        api.client() as client,
    ):
        failed = run(api, client)
        assert failed.request_counts
        assert failed.request_counts.failed == len(PROMPTS)
        again = run(api, client)
    assert cached(again) == 0


def test_duplicates_of_a_reused_answer_are_answered_too(database: Database, sandbox: Sandbox) -> None:
    with running_api(settings_of(sandbox), database) as api, api.client() as client:
        run(api, client, ["a"])
        batch = run(api, client, ["a", "a", "a"])
        assert len(output(client, batch)) == 3
    assert routing(batch)["reasons"] == {"cached": 1, "duplicate": 2}
    assert (routing(batch)["settled_usd"], asked(sandbox)) == ("0.00", 1)


def test_a_large_batch_is_reused_in_claim_chunks(database: Database, sandbox: Sandbox) -> None:
    prompts = [f"prompt {n}" for n in range(150)]
    with running_api(settings_of(sandbox, claim_chunk=8), database) as api, api.client() as client:
        run(api, client, prompts, mode="share", strong_share=0)
        assert cached(run(api, client, prompts, mode="share", strong_share=0)) == 150
    assert asked(sandbox) == 150


def test_reused_answers_say_nothing_of_what_answers_cost(database: Database, sandbox: Sandbox) -> None:
    """They cost nothing; the next cut must not take that for the price of the rest."""
    settings = settings_of(sandbox)
    with running_api(settings, database) as api, api.client() as client:
        run(api, client)
        second = run(api, client, [*PROMPTS, "something new"])
    with database.transaction() as session:
        session.execute(
            text(
                "update requests set state = 'scored', finished_at = null, response = null where batch_id = :id"
                " and line = 9"
            ),
            {"id": second.id},
        )
        session.execute(
            text(
                "update batches set state = 'in_progress', completed_at = null, cost_factors = null,"
                " succeeded = succeeded - 1 where id = :id"
            ),
            {"id": second.id},
        )
    assert replan(database, settings, price_book(settings), second.id)
    assert batch_of(database, second.id).cost_factors is None


def test_a_continuation_reuses_too(database: Database, sandbox: Sandbox) -> None:
    settings = settings_of(sandbox, weak={"expected_output_tokens": 1})
    prompts = [f"prompt {n} of a few words more" for n in range(20)]
    with running_api(settings, database) as api, api.client() as client:
        first = run(api, client, prompts, budget_usd="0.0005").id
        left = batch_of(database, first).failed
        assert 0 < left < 20
        run(api, client, prompts, mode="share", strong_share=0)
        second = ask(client, first, "top_up", "1").id
        with database.transaction() as session:
            session.execute(text('update batches set options = options || \'{"mode": "share", "strong_share": 0}\''))
        work(database, settings, api.publisher)
        assert cached(client.batches.retrieve(second)) == left
    with database.transaction() as session:
        assert session.scalar(select(Request.state).where(Request.batch_id == second).limit(1)) == "succeeded"
