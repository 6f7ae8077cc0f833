"""Plans over HTTP with the stock SDK: made to be looked at, shown, and of nobody else."""

from __future__ import annotations

import httpx2
import openai
import pytest
from openai import OpenAI

from routing_service.ingest.ingest import ingest
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from tests.api_server import Api
from tests.factories import score_all
from tests.integration.test_api_files import upload
from tests.plan_requests import Json, get, make_plan, post, ready_plan, refused


def test_a_plan_says_how_far_it_is_and_then_what_budgets_buy(api: Api, client: OpenAI) -> None:
    batch_id = make_plan(client)
    assert api.publisher.events == [("ingest", batch_id)]
    response = client.get(f"/batches/{batch_id}/plan", cast_to=httpx2.Response)
    assert (response.status_code, response.headers["retry-after"]) == (202, "1")
    assert get(client, f"/batches/{batch_id}/plan")["status"] == "validating"
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id) == [1]
    shown = get(client, f"/batches/{batch_id}/plan")
    assert (shown["status"], shown["requests"]) == ("scoring", {"total": 80, "scored": 0})
    score_all(api.database, api.settings, batch_id)
    plan(api.database, api.settings, batch_id)
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
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id) == []
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
