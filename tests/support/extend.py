"""Topping up and retrying batches by the stock SDK, which has no method for either."""

from __future__ import annotations

from typing import Any

from openai import OpenAI
from openai.types import Batch
from sqlalchemy import text

from routing_service.dispatch.finish import finish
from routing_service.ingest.ingest import ingest
from routing_service.money.pricing import price_book
from tests.support.api_server import Api
from tests.support.factories import chat_file

SPENT_NANO = 250_000_000


def submit(client: OpenAI, lines: int | list[Any] = 5, **routing: Any) -> str:
    """The id of a batch created over HTTP."""
    file = client.files.create(file=("a.jsonl", chat_file(lines)), purpose="batch")
    created = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"team": "x"},
        extra_body={"routing": {"router": "random", "budget_usd": "1"} | routing},
    )
    return created.id


def ask(client: OpenAI, batch_id: str, action: str, usd: Any = None, **headers: str) -> Batch:
    """POST to the action (`top_up`, `retry`). A header's name has `_` for `-`."""
    return client.post(
        f"/batches/{batch_id}/{action}",
        cast_to=Batch,
        body=None if usd is None else {"budget_usd": usd},
        options={"headers": {name.replace("_", "-"): value for name, value in headers.items()}},
    )


def shown(batch: Batch) -> dict[str, Any]:
    """What the batch object says of routing."""
    routing = batch.to_dict()["routing"]
    assert isinstance(routing, dict)
    return routing


def completed(api: Api, client: OpenAI, *, answered: int = 2, left: int = 3, **routing: Any) -> str:
    """A completed batch of which the last `left` lines were unaffordable; of its dollar 25 cents are spent."""
    batch_id = submit(client, answered + left, **routing)
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    end(api, batch_id, answered)
    return batch_id


def end(api: Api, batch_id: str, answered: int) -> None:
    """Complete a batch in progress: its first lines answered, the others unaffordable."""
    values = {"id": batch_id, "n": answered, "spent": SPENT_NANO}
    statements = (
        "update requests set finished_at = now(), state = cast(case when line <= :n then 'succeeded' else"
        " 'unaffordable' end as request_state), response = case when line <= :n then '{}' end, status_code = case"
        " when line <= :n then 200 end, model = case when line <= :n then 'weak' end, reason = 'plan'"
        " where batch_id = :id",
        "update batches set succeeded = :n, failed = total - :n, floor_nano = 0 where id = :id",
        "update budgets set settled_nano = least(limit_nano, :spent) where batch_id = :id",
    )
    with api.database.transaction() as session:
        for statement in statements:
            session.execute(text(statement), values)
    assert finish(api.database, batch_id)
    api.publisher.events.clear()
