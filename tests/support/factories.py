"""Makers of the things tests need: settings, keys, batches in a wanted state.

Makers of batches with duplicate prompts.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.ingest.ingest import ingest
from routing_service.models import (
    ApiKey,
    Batch,
    BatchState,
    Budget,
    BudgetKind,
    File,
    FileChunk,
    FilePurpose,
    Request,
    ScoreRange,
)
from routing_service.money.pricing import NANO, format_usd, price_book
from routing_service.plans.plan import plan
from routing_service.routers.registry import Routers
from routing_service.scoring.score import announce_ranges, score
from routing_service.settings import Settings
from tests.support.fakes import FakePublisher

STRONG = {
    "name": "sandbox-strong",
    "base_url": "http://127.0.0.1:9/v1",
    "input_usd_per_million": "10",
    "output_usd_per_million": "30",
    "max_output_tokens": 512,
}
WEAK = {
    "name": "sandbox-weak",
    "base_url": "http://127.0.0.1:9/v1",
    "input_usd_per_million": "0.15",
    "output_usd_per_million": "0.6",
    "max_output_tokens": 512,
}

NO_BROKER = "memory://"


def make_settings(**sections: Any) -> Settings:
    """Settings with a strong and a weak sandbox model; `sections` replace or add top-level keys."""
    values: dict[str, Any] = {
        "models": {"strong": STRONG, "weak": WEAK},
        "routing": {"candidates": ["weak", "strong"]},
        "budget": {"default_usd": "1"},
    }
    return Settings(**(values | sections))


def without_broker(settings: Settings) -> Settings:
    """The same settings, under which limits are not shared through a Redis."""
    return settings.model_copy(update={"broker_url": SecretStr(NO_BROKER)})


def chat_line(custom_id: str = "a", content: str = "What is 6 times 7?", **changes: Any) -> dict[str, Any]:
    """A line of a batch file. `changes` replace keys of the line; `body` and `messages` are not merged."""
    body = {"model": "routebatch-auto", "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def chat_file(lines: int | list[Any]) -> bytes:
    """A batch file of so many lines, or of the given ones (dicts, or bytes as they are)."""
    if isinstance(lines, int):
        lines = [chat_line(f"request-{n}", f"What is {n} times 7?") for n in range(1, lines + 1)]
    return b"".join((line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines)


def make_key(session: Session, name: str = "tests") -> ApiKey:
    """A stored key. Its secret is known to nobody; `openai_format.keys` makes keys that authenticate."""
    key = ApiKey(id=f"key_{uuid.uuid4().hex}", name=name, digest=uuid.uuid4().bytes * 2, hint="test")
    session.add(key)
    session.flush()
    return key


def make_file(session: Session, key: ApiKey, content: bytes, chunk_bytes: int = 256 * 1024, **columns: Any) -> File:
    """A stored upload, in chunks."""
    values = {"id": f"file-{uuid.uuid4().hex}", "purpose": FilePurpose.BATCH, "filename": "a.jsonl"} | columns
    file = File(api_key_id=key.id, bytes=len(content), **values)
    session.add(file)
    session.flush()
    starts = range(0, len(content), chunk_bytes)
    session.add_all(
        FileChunk(file_id=file.id, number=number, data=content[start : start + chunk_bytes])
        for number, start in enumerate(starts)
    )
    session.flush()
    return file


def make_batch(
    session: Session,
    key: ApiKey,
    file: File,
    *,
    budget_nano: int = NANO,
    options: dict[str, Any] | None = None,
    **columns: Any,
) -> Batch:
    """A batch with its budget, `validating` unless `columns` say otherwise."""
    values: dict[str, Any] = {
        "id": f"batch_{uuid.uuid4().hex}",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "options": {"budget_usd": format_usd(budget_nano), "mode": "plan", "on_budget": "stop"} | (options or {}),
        "fingerprint": b"",
        "router": "random",
        "candidates": ["weak", "strong"],
        "strong_input_price": 10 * NANO,
        "strong_output_price": 30 * NANO,
        "state": BatchState.VALIDATING,
        "expires_at": datetime.now(UTC) + timedelta(hours=24),
    }
    batch = Batch(api_key_id=key.id, input_file_id=file.id, **(values | columns))
    session.add(batch)
    session.flush()
    session.add(Budget(kind=BudgetKind.BATCH, batch_id=batch.id, limit_nano=budget_nano))
    session.flush()
    return batch


def new_batch(database: Database, content: bytes | int | list[Any], **columns: Any) -> str:
    """The id of a committed batch over a file of that content; see `chat_file` and `make_batch`."""
    file_bytes = content if isinstance(content, bytes) else chat_file(content)
    with database.transaction() as session:
        key = make_key(session)
        return make_batch(session, key, make_file(session, key, file_bytes), **columns).id


def ingested_batch(database: Database, content: bytes | int | list[Any], settings: Settings, **columns: Any) -> str:
    """The id of a batch that is in progress, its lines queued."""
    batch_id = new_batch(database, content, **columns)
    assert ingest(database, settings, price_book(settings), batch_id)
    announce_ranges(database, settings, FakePublisher(), batch_id)
    return batch_id


def planned_batch(database: Database, content: bytes | int | list[Any], settings: Settings, **columns: Any) -> str:
    """The id of a batch that may be dispatched: ingested, scored and planned."""
    batch_id = ingested_batch(database, content, settings, **columns)
    score_all(database, settings, batch_id)
    assert plan(database, settings, price_book(settings), batch_id)
    return batch_id


def previewed_batch(database: Database, content: bytes | int | list[Any], settings: Settings, **columns: Any) -> str:
    """The id of a batch that shows its plan and waits to be approved; without a budget unless `columns` name one."""
    batch_id = ingested_batch(database, content, settings, preview={}, **({"budget_nano": 0} | columns))
    score_all(database, settings, batch_id)
    assert not plan(database, settings, price_book(settings), batch_id)
    return batch_id


def score_all(database: Database, settings: Settings, batch_id: str) -> None:
    """Score every range of an ingested batch."""
    with database.transaction() as session:
        query = select(ScoreRange.first_line).where(ScoreRange.batch_id == batch_id)
        first_lines = session.scalars(query.order_by(ScoreRange.first_line)).all()
    routers = Routers(settings, database)
    for first_line in first_lines:
        score(database, settings, price_book(settings), routers, batch_id, first_line)


DETERMINISTIC = {"dedupe": "deterministic"}


def line(number: int, prompt: str, temperature: float | None = 0, **changes: Any) -> dict[str, Any]:
    body = chat_line(content=prompt)["body"] | ({} if temperature is None else {"temperature": temperature})
    return chat_line(f"c-{number}", body=body | changes.pop("body", {}), **changes)


def lines(*prompts: str) -> list[dict[str, Any]]:
    return [line(number, prompt) for number, prompt in enumerate(prompts, start=1)]


def requests_of(database: Database, batch_id: str) -> list[Request]:
    with database.transaction() as session:
        return list(session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)))
