"""Batches over HTTP, as the stock SDK uses them."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import select, text, update

from routing_service.db import Database
from routing_service.events import FinishDue, IngestDue
from routing_service.models import Batch, BatchState, Budget
from tests.support.api_server import Api, running_api
from tests.support.client import ENDPOINT, create, routing, upload
from tests.support.factories import STRONG, make_settings


def test_a_created_batch_is_validating_and_announced_once(api: Api, client: OpenAI) -> None:
    file_id = upload(client)
    batch = create(client, file_id, metadata={"team": "x"}, extra_body={"routing": {"budget_usd": "2.50"}})
    shown = batch.to_dict()
    assert shown.pop("id") == batch.id
    assert shown.pop("created_at") == batch.created_at
    assert shown.pop("routing") == {
        "budget_usd": "2.50",
        "settled_usd": "0.00",
        "reserved_usd": "0.00",
        "overrun_usd": "0.00",
        "mode": "plan",
        "models": {},
        "reasons": {},
        "duplicates": {"count": 0, "saved_usd": "0.00"},
        "cached": {"count": 0, "saved_usd": "0.00"},
        "expected_gain": None,
        "expected_cost_usd": None,
        "router": "auto",
        "router_version": None,
        "shadow_price": None,
        "unscored": False,
        "unscored_reason": None,
        "error_count": 0,
        "incomplete": False,
        "paused": None,
        "paused_reason": None,
        "continues": None,
        "continued_by": None,
        "plan": None,
    }
    nothing = {"input_tokens": 0, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 0}
    assert shown == {
        "object": "batch",
        "endpoint": ENDPOINT,
        "model": None,
        "errors": None,
        "input_file_id": file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "in_progress_at": None,
        "expires_at": batch.created_at + 86400,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": nothing | {"output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 0},
        "metadata": {"team": "x"},
    }
    assert client.batches.retrieve(batch.id) == batch
    assert api.publisher.events == [IngestDue(batch.id)]


def test_a_created_batch_stores_budget_candidates_and_the_strong_price(client: OpenAI, database: Database) -> None:
    batch_id = create(client, extra_body={"routing": {"budget_usd": 0.1, "priority": 7, "on_budget": "wait"}}).id
    with database.transaction() as session:
        batch = session.get_one(Batch, batch_id)
        budget = session.scalars(select(Budget).where(Budget.batch_id == batch_id)).one()
    assert (batch.candidates, batch.priority, batch.options["on_budget"]) == (["weak", "strong"], 7, "wait")
    assert batch.options["budget_usd"] == "0.1"
    assert (batch.strong_input_price, batch.strong_output_price) == (10_000_000_000, 30_000_000_000)
    assert budget.limit_nano == 100_000_000


def test_batches_are_listed_newest_first_and_the_sdk_pages_through_them(client: OpenAI) -> None:
    file_id = upload(client)
    ids = [create(client, file_id, metadata={"n": str(n)}).id for n in range(5)]
    assert [b.id for b in client.batches.list(limit=2)] == ids[::-1]
    assert [b.id for b in client.batches.list(after=ids[3], limit=2).data] == [ids[2], ids[1]]
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=0)
    with pytest.raises(openai.BadRequestError):
        client.batches.list(limit=101)
    with pytest.raises(openai.NotFoundError):
        client.batches.list(after="batch_unknown")


WRONG_WISHES: list[tuple[dict[str, Any], str | None]] = [
    ({"endpoint": "/v1/embeddings"}, "endpoint"),
    ({"completion_window": "25"}, "completion_window"),
    ({"completion_window": "0h"}, "completion_window"),
    ({"completion_window": "8d"}, "completion_window"),
    ({"completion_window": "169h"}, "completion_window"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: ""}}, "metadata"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"metadata": {"k": "a\0b"}}, None),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
    ({"extra_body": {"budget": 1}}, "budget"),
    ({"extra_body": {"input_file_id": 5}}, "input_file_id"),
    ({"extra_body": {"routing": {"budget": 1}}}, "routing.budget"),
    ({"extra_body": {"routing": {"budget_usd": 0}}}, "budget_usd"),
    ({"extra_body": {"routing": {"router": "oracle"}}}, "routing.router"),
]


def test_a_wrong_wish_is_refused_by_name_and_creates_nothing(api: Api, client: OpenAI) -> None:
    file_id = upload(client)
    for wish, param in WRONG_WISHES:
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, file_id, **wish)
        assert caught.value.param == param
        assert caught.value.request_id
    assert client.batches.list().data == []
    assert api.publisher.events == []


def test_windows_from_an_hour_to_a_week_are_accepted(client: OpenAI) -> None:
    file_id = upload(client)
    for window, hours in {"1h": 1, "24h": 24, "168h": 168, "1d": 24, "7d": 168}.items():
        batch = create(client, file_id, completion_window=window)
        assert batch.expires_at == batch.created_at + 3600 * hours


def test_without_a_budget_or_a_default_a_batch_is_refused(database: Database) -> None:
    with running_api(make_settings(budget={}), database) as api, api.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            create(client)
        assert caught.value.code == "budget_required"
        assert routing(create(client, metadata={"budget_usd": "0.5"}))["budget_usd"] == "0.50"


def test_one_candidate_is_enough_and_seventeen_are_refused(database: Database) -> None:
    one = make_settings(models={"only": STRONG}, routing={})
    with running_api(one, database) as api, api.client() as client:
        assert create(client).status == "validating"
    many = make_settings(models={f"model-{n}": STRONG for n in range(17)}, routing={})
    with running_api(many, database) as api, api.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            create(client)
        assert caught.value.code == "candidates_not_supported"


def test_an_input_file_that_is_deleted_unknown_or_of_another_purpose_is_refused(
    client: OpenAI, database: Database
) -> None:
    gone = upload(client)
    client.files.delete(gone)
    for file_id in (gone, "file-unknown", "\u2028"):
        with pytest.raises(openai.NotFoundError) as caught:
            create(client, file_id)
        assert caught.value.param == "input_file_id"
    used = upload(client)
    batch = create(client, used)
    with database.transaction() as session:
        session.execute(
            text("update files set purpose = 'batch_output', batch_id = :batch where id = :id"),
            {"batch": batch.id, "id": used},
        )
    with pytest.raises(openai.BadRequestError):
        create(client, used, metadata={"again": "1"})


def test_a_file_that_a_batch_is_still_to_read_cannot_be_deleted(client: OpenAI, database: Database) -> None:
    file_id = upload(client)
    batch = create(client, file_id)
    with pytest.raises(openai.ConflictError) as caught:
        client.files.delete(file_id)
    assert caught.value.code == "file_in_use"
    assert caught.value.response.headers["x-should-retry"] == "true"
    move(database, batch.id, BatchState.IN_PROGRESS)
    assert client.files.delete(file_id).deleted


@pytest.mark.parametrize("state", [BatchState.VALIDATING, BatchState.IN_PROGRESS])
def test_cancelling_asks_for_the_end_once(api: Api, client: OpenAI, database: Database, state: BatchState) -> None:
    batch = create(client)
    move(database, batch.id, state)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status == "cancelling"
    assert cancelled.cancelling_at
    assert client.batches.cancel(batch.id).cancelling_at == cancelled.cancelling_at
    assert api.publisher.events == [IngestDue(batch.id), FinishDue(batch.id)]


@pytest.mark.parametrize(
    ("state", "column"),
    [(BatchState.COMPLETED, "completed_at"), (BatchState.FAILED, "failed_at"), (BatchState.EXPIRED, "expired_at")],
)
def test_a_batch_that_has_ended_cannot_be_cancelled_and_the_sdk_does_not_retry(
    api: Api, database: Database, state: BatchState, column: str
) -> None:
    with api.client(retries=5) as client:
        batch = create(client)
        with database.transaction() as session:
            session.execute(text(f"update batches set state = '{state}', {column} = now()"))
        with pytest.raises(openai.ConflictError, match=f"Cannot cancel a batch with status '{state}'") as caught:
            client.batches.cancel(batch.id)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_validation_errors_are_shown_as_openai_shows_them(client: OpenAI, database: Database) -> None:
    batch = create(client)
    error = {"code": "duplicate_custom_id", "message": "twice", "param": "custom_id", "line": 7}
    with database.transaction() as session:
        changes = {"state": BatchState.FAILED, "failed_at": text("now()"), "errors": [error], "error_count": 3}
        session.execute(update(Batch).where(Batch.id == batch.id).values(changes))
    shown = client.batches.retrieve(batch.id)
    assert shown.status == "failed"
    assert shown.errors is not None
    assert shown.errors.to_dict() == {"object": "list", "data": [error]}
    assert routing(shown)["error_count"] == 3


def move(database: Database, batch_id: str, state: BatchState) -> None:
    with database.transaction() as session:
        session.get_one(Batch, batch_id).state = state
