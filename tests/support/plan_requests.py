"""What tests of plans ask the API for, by the stock SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from routing_service.ingest.ingest import ingest
from routing_service.money.pricing import price_book
from routing_service.plans.plan import plan
from tests.support.api_server import Api
from tests.support.factories import chat_file, score_all

Json = dict[str, Any]
LINES = chat_file(80)


def post(client: OpenAI, path: str, body: Json | None = None) -> Json:
    answer: Any = client.post(path, body=body, cast_to=object)
    assert isinstance(answer, dict)
    return answer


def get(client: OpenAI, path: str) -> Json:
    answer: Any = client.get(path, cast_to=object)
    assert isinstance(answer, dict)
    return answer


def make_plan(client: OpenAI, content: bytes = LINES, **routing: Any) -> str:
    """The id of a plan that is still to be read and scored; by the random router, which is quick."""
    body = {
        "input_file_id": client.files.create(file=("a.jsonl", content), purpose="batch").id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "routing": {"router": "random"} | routing,
    }
    batch_id = post(client, "/batches/plan", body)["id"]
    assert isinstance(batch_id, str)
    return batch_id


def ready_plan(api: Api, client: OpenAI, **routing: Any) -> str:
    batch_id = make_plan(client, **routing)
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    score_all(api.database, api.settings, batch_id)
    assert not plan(api.database, api.settings, price_book(api.settings), batch_id)
    return batch_id


def refused(code: str, call: Callable[[], Any]) -> str:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.code == code
    return caught.value.message
