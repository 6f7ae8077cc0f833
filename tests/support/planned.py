"""Makers of planned batches: rows as ingest, score and plan leave them, ready to be dispatched."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.models import (
    ApiKey,
    Batch,
    BatchState,
    Budget,
    BudgetKind,
    File,
    FilePurpose,
    Request,
    RequestState,
)

NANO = 1_000_000_000


@dataclass(frozen=True)
class Planned:
    """One request to be made: its gain per dollar, and what it may override."""

    ratio: float = 1.0
    prompt: str = "What is 2 + 2?"
    pinned: str | None = None
    max_cost_nano: int | None = None
    output_cap: int | None = 64
    priority: int = 5


def make_planned_batch(
    session: Session,
    requests: Sequence[Planned],
    *,
    budget_nano: int = NANO,
    shadow_price: float = 0.0,
    options: dict[str, object] | None = None,
    floor_each: int = 1000,
    expires_in_s: int = 3600,
    priority: int = 5,
    key_id: str | None = None,
) -> str:
    """A batch in progress with every request scored, of the key given or one of its own; returns its id."""
    unique = secrets.token_hex(8)
    now = session.scalar(text("select now()"))
    expires = session.scalar(text("select now() + make_interval(secs => :seconds)"), {"seconds": expires_in_s})
    assert now is not None
    assert expires is not None
    if key_id is None:
        key_id = f"key_{unique}"
        session.add(ApiKey(id=key_id, name="test", digest=secrets.token_bytes(32), hint="test"))
        session.flush()
    file = File(id=f"file-{unique}", api_key_id=key_id, purpose=FilePurpose.BATCH, filename="a.jsonl", bytes=1)
    session.add(file)
    session.flush()
    batch = Batch(
        id=f"batch_{unique}",
        api_key_id=key_id,
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        options={"mode": "plan", "on_budget": "stop"} | (options or {}),
        fingerprint=b"x",
        router="random",
        candidates=["weak", "strong"],
        strong_input_price=10 * NANO,
        strong_output_price=30 * NANO,
        state=BatchState.IN_PROGRESS,
        total=len(requests),
        floor_nano=floor_each * len(requests),
        shadow_price=shadow_price,
        cut_line=0,
        expires_at=expires,
        in_progress_at=now,
        planned_at=now,
        priority=priority,
        line_priorities=sorted({request.priority for request in requests}, reverse=True) or [5],
    )
    session.add(batch)
    session.flush()
    session.add(Budget(kind=BudgetKind.BATCH, batch_id=batch.id, limit_nano=budget_nano))
    session.add_all(_request(batch.id, line, r, floor_each) for line, r in enumerate(requests, start=1))
    return batch.id


def _request(batch_id: str, line: int, planned: Planned, floor: int) -> Request:
    body = {"model": "routebatch-auto", "messages": [{"role": "user", "content": planned.prompt}]}
    return Request(
        batch_id=batch_id,
        line=line,
        custom_id=f"c-{line}",
        body=json.dumps(body | ({"max_tokens": planned.output_cap} if planned.output_cap else {})),
        pinned=planned.pinned,
        max_cost_nano=planned.max_cost_nano,
        priority=planned.priority,
        input_bytes=len(json.dumps(body["messages"]).encode()),
        output_cap=planned.output_cap,
        state=RequestState.SCORED,
        win_rate=0.75,
        quality=[0.5, 0.75],
        expected_cost_nano=[floor, 50 * floor],
        ratio=planned.ratio,
        floor_nano=floor,
    )
