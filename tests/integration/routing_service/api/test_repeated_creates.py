"""The same create sent more than once gives one batch: by its key, or because the client says that it is a retry."""

from __future__ import annotations

import threading

import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from routing_service.db import Database
from routing_service.events import IngestDue
from tests.support.api_server import Api
from tests.support.client import create, upload


def test_an_idempotency_key_makes_one_batch_however_often_it_is_sent(api: Api, client: OpenAI) -> None:
    file_id = upload(client)
    headers = {"Idempotency-Key": "k1"}
    first = create(client, file_id, extra_headers=headers)
    assert create(client, file_id, extra_headers=headers).id == first.id
    with pytest.raises(openai.ConflictError) as caught:
        create(client, file_id, completion_window="1h", extra_headers=headers)
    assert caught.value.code == "idempotency_conflict"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert create(client, file_id, extra_headers={"Idempotency-Key": "k2"}).id != first.id
    assert create(client, file_id).id != first.id
    assert len(client.batches.list().data) == 3
    assert api.publisher.events.count(IngestDue(first.id)) == 1


def test_an_idempotency_key_is_the_api_keys_own(api: Api, client: OpenAI) -> None:
    headers = {"Idempotency-Key": "k1"}
    mine = create(client, extra_headers=headers)
    with api.client(api.new_key()[1]) as other:
        assert create(other, extra_headers=headers).id != mine.id


def test_creates_at_the_same_time_under_one_idempotency_key_give_one_batch(api: Api, client: OpenAI) -> None:
    file_id = upload(client)
    actual: list[str] = []

    def send() -> None:
        with api.client() as own:
            actual.append(create(own, file_id, extra_headers={"Idempotency-Key": "same"}).id)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(actual) == 8
    assert set(actual) == {b.id for b in client.batches.list().data}
    assert len(set(actual)) == 1


def test_a_retried_create_returns_the_batch_of_the_last_minutes(client: OpenAI, database: Database) -> None:
    file_id = upload(client)
    retry = {"x-stainless-retry-count": "1"}
    first = create(client, file_id)
    assert create(client, file_id, extra_headers=retry).id == first.id
    assert create(client, file_id, metadata={"other": "1"}, extra_headers=retry).id != first.id
    assert create(client, file_id).id != first.id
    with database.transaction() as session:
        session.execute(text("update batches set created_at = created_at - interval '11 minutes'"))
    assert create(client, file_id, extra_headers=retry).id != first.id


def test_the_sdks_own_retry_after_a_lost_answer_makes_one_batch(api: Api) -> None:
    """The database answers late once: the client gives up, retries, and finds the batch of its first try."""
    with api.client(retries=8) as client:
        file_id = upload(client)
        with api.database.transaction() as session:
            session.execute(text("lock table budgets in access exclusive mode"))
            results: list[str] = []
            hurried = client.with_options(timeout=1.0)
            thread = threading.Thread(target=lambda: results.append(create(hurried, file_id).id))
            thread.start()
            thread.join(1.2)  # the first try has timed out; it holds the create until this transaction ends
        thread.join()
        assert [b.id for b in client.batches.list().data] == results
