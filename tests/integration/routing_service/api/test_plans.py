"""Plans over HTTP: made, shown, of nobody else, and approved once to run as they were shown."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
from openai import OpenAI
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.events import IngestDue, PlanDue
from routing_service.ingest.ingest import ingest
from routing_service.models import BatchState, Request
from routing_service.money.pricing import price_book
from routing_service.planning import Ranking, steps
from routing_service.plans.plan import plan
from routing_service.routers.random import RandomRouter
from routing_service.settings import Settings
from routing_service.upstream.outcome import Usage
from tests.support.api_server import Api, running_api
from tests.support.client import upload
from tests.support.factories import STRONG, WEAK, make_settings, score_all
from tests.support.plan_requests import Json, get, make_plan, post, ready_plan, refused
from tests.support.reading import batch_of
from tests.support.upstreams.replayed import run_out


def test_a_plan_says_how_far_it_is_and_then_what_budgets_buy(api: Api, client: OpenAI) -> None:
    batch_id = make_plan(client)
    assert api.publisher.events == [IngestDue(batch_id)]
    response = client.get(f"/batches/{batch_id}/plan", cast_to=httpx2.Response)
    assert (response.status_code, response.headers["retry-after"]) == (202, "1")
    assert get(client, f"/batches/{batch_id}/plan")["status"] == "validating"
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id) is BatchState.IN_PROGRESS
    shown = get(client, f"/batches/{batch_id}/plan")
    assert (shown["status"], shown["requests"]) == ("scoring", {"total": 80, "scored": 0})
    score_all(api.database, api.settings, batch_id)
    plan(api.database, api.settings, price_book(api.settings), batch_id)
    shown = get(client, f"/batches/{batch_id}/plan")
    assert (shown["status"], shown["requests"]) == ("ready", {"total": 80, "scored": 80})
    assert shown["budget_usd"] is None
    assert shown["chosen"] is None
    assert shown["ladder"][0]["budget_usd"] == shown["least_budget_usd"]
    assert float(shown["all_weak_usd"]) < float(shown["all_strong_usd"])
    rung = shown["ladder"][5]
    assert rung["low"] < rung["gain"] < rung["high"]
    assert rung["share"]["weak"] + rung["share"]["strong"] == pytest.approx(1)
    assert "basis" not in shown


def test_a_plan_is_listed_as_one_that_awaits_approval_and_needs_no_budget(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    routing = client.batches.retrieve(batch_id).to_dict()["routing"]
    assert isinstance(routing, dict)
    assert (routing["plan"], routing["paused"], routing["budget_usd"]) == ("ready", "approval", None)
    assert [batch.id for batch in client.batches.list()] == [batch_id]


def test_another_keys_plan_is_not_found(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    with api.client(api.new_key()[1]) as other:
        with pytest.raises(openai.NotFoundError):
            get(other, f"/batches/{batch_id}/plan")
        with pytest.raises(openai.NotFoundError):
            post(other, f"/batches/{batch_id}/approve")


def test_a_file_that_is_refused_is_a_plan_that_failed(api: Api, client: OpenAI) -> None:
    batch_id = make_plan(client, b"no json\n")
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id) is BatchState.FAILED
    shown = get(client, f"/batches/{batch_id}/plan")
    assert (shown["status"], "ladder" in shown) == ("failed", False)
    refused("plan_ended", lambda: post(client, f"/batches/{batch_id}/approve"))


def test_a_plan_and_a_batch_of_the_same_wish_are_two(api: Api, client: OpenAI) -> None:
    body: Json = {"input_file_id": upload(client), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with api.client(retries=0) as retrying:
        again = {"x-stainless-retry-count": "1"}
        first = retrying.post("/batches/plan", body=body, cast_to=object)
        second = retrying.post("/batches/plan", body=body, cast_to=object, options={"headers": again})
        third = retrying.batches.create(**body, extra_headers=again)
    assert first["id"] == second["id"] != third.id  # type: ignore[index]


def test_the_option_plan_id_is_refused_and_names_the_way(client: OpenAI) -> None:
    body: Json = {"input_file_id": upload(client), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    body["routing"] = {"plan_id": "batch_1"}
    assert "/v1/batches/{id}/approve" in refused("unsupported_parameter", lambda: post(client, "/batches", body))


@contextmanager
def served(settings: Settings, database: Database, key: str) -> Iterator[OpenAI]:
    """The API once more, under another configuration; the same key."""
    with running_api(settings, database) as api, api.client(key) as client:
        yield client


def test_what_was_approved_runs_as_it_was_shown(api: Api, client: OpenAI) -> None:
    """Each line goes to the model that the plan's rule gives it at that budget: answers cost less than was expected,
    and nothing is planned anew."""
    batch_id = ready_plan(api, client, budget_usd="0.25")
    shown = get(client, f"/batches/{batch_id}/plan")["chosen"]
    approved = post(client, f"/batches/{batch_id}/approve")
    assert (approved["routing"]["plan"], approved["routing"]["budget_usd"]) == ("approved", "0.25")
    assert api.publisher.events[-1] == PlanDue(batch_id)
    wanted = _split(api.database, batch_id, 250_000_000)
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    batch = batch_of(api.database, batch_id)
    assert (batch.shadow_price, batch.cut_line) == (shown["shadow_price"], shown["cut_line"])
    with api.database.transaction() as session:
        session.execute(text("update batches set replan_at = 1000, probes = null, expected_cost_nano = 10 ^ 15"))
    run_out(api.database, api.settings, batch_id, lambda ticket: Usage(20, 200))
    with api.database.transaction() as session:
        rows = session.execute(select(Request.line, Request.model, Request.reason)).all()
    assert {row.reason for row in rows} == {"plan"}
    assert {row.line: row.model for row in rows} == wanted
    assert sum(model == "strong" for model in wanted.values()) / 80 == pytest.approx(shown["share"]["strong"])


def test_a_plan_that_expires_while_its_approval_waits_for_the_row_is_not_approved(api: Api, client: OpenAI) -> None:
    """Whoever ends its lines holds the row; when they let it go, some may have ended."""
    batch_id = ready_plan(api, client, budget_usd="0.25")
    approval = partial(refused, "plan_ended", partial(post, client, f"/batches/{batch_id}/approve"))
    with ThreadPoolExecutor(1) as pool:
        with api.database.transaction() as session:
            session.execute(text("select from batches for update"))
            waiting = pool.submit(approval)
            while not session.scalar(text("select count(*) from pg_locks where not granted")) and not waiting.done():
                pass
            session.execute(text("update batches set expires_at = clock_timestamp()"))
        waiting.result()


def _split(database: Database, batch_id: str, budget: int) -> dict[int, str]:
    """The model of each line, from the stored scores by the pure planner."""
    with database.transaction() as session:
        rows = session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)).all()
    cost, quality = (np.array([getattr(row, name) for row in rows]) for name in ("expected_cost_nano", "quality"))
    line = np.array([row.line for row in rows])
    worst = max(-(-((row.input_bytes + 16) * 150_000_000 + 512 * 600_000_000) // 1_000_000) for row in rows)
    quality = quality.astype(np.float32)
    actual = Ranking.of(cost, quality, line, steps(cost, quality)).within(budget - worst)
    return {row.line: ("weak", "strong")[model] for row, model in zip(rows, actual.model.tolist(), strict=True)}


def test_the_budget_may_be_chosen_when_the_plan_is_approved(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    rung = get(client, f"/batches/{batch_id}/plan")["ladder"][4]
    post(client, f"/batches/{batch_id}/approve", {"budget_usd": rung["budget_usd"]})
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    batch = batch_of(api.database, batch_id)
    assert (batch.shadow_price, batch.cut_line) == (rung["shadow_price"], rung["cut_line"])
    assert (batch.paused, batch.options["budget_usd"]) == (None, rung["budget_usd"])


def test_a_budget_below_the_least_is_refused_and_names_it(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    least = get(client, f"/batches/{batch_id}/plan")["least_budget_usd"]
    path = f"/batches/{batch_id}/approve"
    message = refused("budget_too_small", lambda: post(client, path, {"budget_usd": "0.001"}))
    assert f"${least}" in message
    for wrong in ("much", True, -1, "0"):
        refused("invalid_budget", partial(post, client, path, {"budget_usd": wrong}))
    assert post(client, path, {"budget_usd": least})["routing"]["plan"] == "approved"


def test_without_any_budget_a_plan_cannot_run(database: Database) -> None:
    with running_api(make_settings(budget={}), database) as api, api.client() as client:
        batch_id = ready_plan(api, client)
        refused("budget_required", lambda: post(client, f"/batches/{batch_id}/approve"))


def test_the_configured_budget_stands_in_for_one_that_nobody_named(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    assert post(client, f"/batches/{batch_id}/approve")["routing"]["budget_usd"] == "1.00"


def test_a_plan_is_approved_once_however_often_it_is_asked(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    path = f"/batches/{batch_id}/approve"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(client, path, {"budget_usd": "0.5"}), range(4)))
    assert {answer["id"] for answer in answers} == {batch_id}
    assert api.publisher.events.count(PlanDue(batch_id)) == 1
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    planned_at = batch_of(api.database, batch_id).planned_at
    assert post(client, path, {"budget_usd": "0.50"})["id"] == batch_id
    assert post(client, path)["id"] == batch_id
    assert batch_of(api.database, batch_id).planned_at == planned_at
    refused("plan_approved", lambda: post(client, path, {"budget_usd": "0.6"}))


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"models": {"strong": STRONG, "weak": WEAK | {"output_usd_per_million": "0.7"}}}, "the price of 'weak'"),
        ({"models": {"strong": STRONG | {"name": "another"}, "weak": WEAK}}, "the upstream and bounds of 'strong'"),
        ({"models": {"strong": STRONG, "weak": WEAK | {"max_output_tokens": 256}}}, "bounds of 'weak'"),
        ({"models": {"strong": STRONG, "weak": WEAK | {"expected_output_tokens": 9}}}, "the expected_output_tokens of"),
        ({"routing": {"candidates": ["weak"]}}, "the candidates (now weak)"),
        ({"models": {"weak": WEAK}, "routing": {"candidates": ["weak"]}}, "'strong', which is no longer configured"),
        ({"routing": {"candidates": ["weak", "strong"], "seed": 7}}, "the router 'random'"),
    ],
)
def test_what_has_changed_since_is_named_and_nothing_runs(api: Api, client: OpenAI, sections: Json, named: str) -> None:
    batch_id = ready_plan(api, client)
    with served(make_settings(**sections), api.database, api.key) as changed:
        message = refused("plan_changed", lambda: post(changed, f"/batches/{batch_id}/approve"))
    assert named in message
    assert message.count("the ") < 5
    assert batch_of(api.database, batch_id).approved_at is None


def test_a_router_fitted_anew_under_the_same_name_is_a_change(database: Database, tmp_path: Path) -> None:
    routing = {"candidates": ["weak", "strong"], "artifacts": {"mine": tmp_path / "mine"}}
    settings = make_settings(routing=routing)
    RandomRouter(1).save(tmp_path / "mine")
    with running_api(settings, database) as api, api.client() as client:
        kept, stale = (ready_plan(api, client, router="mine") for _ in range(2))
        assert post(client, f"/batches/{kept}/approve")["routing"]["plan"] == "approved"
        RandomRouter(2).save(tmp_path / "mine")
        message = refused("plan_changed", lambda: post(client, f"/batches/{stale}/approve"))
    assert "the router 'mine'" in message


def test_what_is_no_plan_or_not_ready_or_over_cannot_be_approved(api: Api, client: OpenAI) -> None:
    early = make_plan(client)
    refused("plan_not_ready", lambda: post(client, f"/batches/{early}/approve"))
    batch = client.batches.create(
        input_file_id=upload(client), endpoint="/v1/chat/completions", completion_window="24h"
    )
    refused("not_a_plan", lambda: post(client, f"/batches/{batch.id}/approve"))
    refused("not_a_plan", lambda: get(client, f"/batches/{batch.id}/plan"))
    late = ready_plan(api, client)
    refused("plan_not_approved", lambda: post(client, f"/batches/{late}/top_up", {"budget_usd": "1"}))
    with api.database.transaction() as session:
        session.execute(text("update batches set expires_at = now() where id = :id"), {"id": late})
    refused("plan_ended", lambda: post(client, f"/batches/{late}/approve"))
    client.batches.cancel(late)
    refused("plan_ended", lambda: post(client, f"/batches/{late}/approve"))
    assert get(client, f"/batches/{late}/plan")["status"] == "cancelling"


def test_an_approval_that_nobody_announced_is_found_by_the_sweep(api: Api, client: OpenAI) -> None:
    batch_id = ready_plan(api, client)
    with api.database.transaction() as session:
        session.execute(text("update batches set expires_at = now() + interval '1 minute'"))
    post(client, f"/batches/{batch_id}/approve")
    batch = batch_of(api.database, batch_id)
    assert batch.approved_at is not None
    assert (batch.expires_at - batch.approved_at).total_seconds() == 24 * 3600
    api.publisher.events.clear()
    with api.database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 h'"))
    sweep(api.database, api.settings, api.publisher)
    assert api.publisher.events == [PlanDue(batch_id)]
