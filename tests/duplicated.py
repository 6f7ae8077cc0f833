"""Makers of batches with duplicate prompts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from routing_service.db import Database
from routing_service.models import Request
from tests.factories import chat_line

DETERMINISTIC = {"dedupe": "deterministic"}


def line(number: int, prompt: str, temperature: float | None = 0, **changes: Any) -> dict[str, Any]:
    body = chat_line(content=prompt)["body"] | ({} if temperature is None else {"temperature": temperature})
    return chat_line(f"c-{number}", body=body | changes.pop("body", {}), **changes)


def lines(*prompts: str) -> list[dict[str, Any]]:
    return [line(number, prompt) for number, prompt in enumerate(prompts, start=1)]


def requests_of(database: Database, batch_id: str) -> list[Request]:
    with database.transaction() as session:
        return list(session.scalars(select(Request).where(Request.batch_id == batch_id).order_by(Request.line)))
