"""Companions: calls of our own that are made as a batch, so that claims, money, retries and recovery are a batch's.

A companion is written as it would stand after its plan: in progress, each line scored and pinned to its model, under a
budget of its own. It draws on the budgets of its API key as well, yields to batches of any higher priority, stops when
its budget is spent, and ends without files. No client sees it. Its lines go out in the order of their numbers, and none
of them has money kept for it at another's expense: where money runs out, it is the last ones that are not asked.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from routing_service.errors import ConfigurationError
from routing_service.models import Batch, BatchPurpose, BatchState, Budget, BudgetKind, Request, RequestState
from routing_service.money.pricing import PriceBook, expected_nano, input_bound
from routing_service.openai_format.body import choices, input_bytes, output_cap
from routing_service.openai_format.line import ENDPOINT
from routing_service.planning import NEVER
from routing_service.settings import Settings

PRIORITY = 0  # the least: clients come first


@dataclass(frozen=True, slots=True)
class CompanionLine:
    """A call to be made. `body` has passed the allow-list already, as a client's, or is made by us; `model` is
    configured. `propensity`: the probability that this call is made at all. `source_line`: the parent's line that it is
    about; `max_cost_nano`: what it may cost at most, over all its attempts."""

    custom_id: str
    body: dict[str, Any]
    model: str
    source_line: int | None = None
    propensity: float = 1.0
    max_cost_nano: int | None = None


def add_companion(
    session: Session,
    settings: Settings,
    prices: PriceBook,
    *,
    purpose: BatchPurpose,
    api_key_id: str,
    parent_id: str | None,
    lines: Sequence[CompanionLine],
    budget_nano: int,
    window: timedelta,
) -> str:
    """Write a companion of these lines, numbered from 1 in their order; returns its id.

    The caller commits, then publishes DispatchDue. The lines have different custom ids. Raises ValueError where
    there is none, ConfigurationError for a model that is not configured.
    """
    if not lines:
        raise ValueError("a companion has at least one line")
    models = _models(lines, settings, prices)
    costs = [_expected(line, settings, prices) for line in lines]
    dearest = prices.price(models[-1], 0)
    now = session.scalars(select(func.now())).one()
    batch = Batch(
        id=f"batch_{uuid.uuid4().hex}",
        purpose=purpose,
        parent_id=parent_id,
        api_key_id=api_key_id,
        endpoint=ENDPOINT,
        completion_window=f"{max(1, round(window / timedelta(hours=1)))}h",
        options={"on_budget": "stop", "on_failure": "fail"},
        fingerprint=b"",
        router="none",
        candidates=models,
        strong_input_price=dearest.input,
        strong_output_price=dearest.output,
        priority=PRIORITY,
        state=BatchState.IN_PROGRESS,
        total=len(lines),
        shadow_price=0.0,
        cut_line=0,
        expected_cost_nano=sum(costs),
        created_at=now,
        in_progress_at=now,
        announced_at=now,
        planned_at=now,
        expires_at=now + window,
    )
    session.add(batch)
    session.flush()
    session.add(Budget(kind=BudgetKind.BATCH, batch_id=batch.id, limit_nano=budget_nano))
    rows = [_row(batch.id, number, line) for number, line in enumerate(lines, start=1)]
    session.execute(insert(Request), rows)
    return batch.id


def _models(lines: Sequence[CompanionLine], settings: Settings, prices: PriceBook) -> list[str]:
    """Whom the lines are for, the cheapest first."""
    models = {line.model for line in lines}
    for model in models:
        if model not in settings.models:
            raise ConfigurationError(f"the model {model!r} is not configured")
    return sorted(models, key=lambda model: (prices.price(model, 0).output, prices.price(model, 0).input, model))


def _expected(line: CompanionLine, settings: Settings, prices: PriceBook) -> int:
    model, size = settings.models[line.model], input_bytes(line.body)
    price = prices.price(line.model, input_bound(size, model))
    return expected_nano(price, size, output_cap(line.body), choices(line.body), model)


def _row(batch_id: str, number: int, line: CompanionLine) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "line": number,
        "custom_id": line.custom_id,
        "body": orjson.dumps(line.body).decode(),
        "pinned": line.model,
        "source_line": line.source_line,
        "propensity": line.propensity,
        "max_cost_nano": line.max_cost_nano,
        "input_bytes": input_bytes(line.body),
        "output_cap": output_cap(line.body),
        "choices": choices(line.body),
        "state": RequestState.SCORED,
        "ratio": NEVER,
    }
