"""How a client sees the plan that a preview found."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from routing_service.batches.view import own_batch, plan_state
from routing_service.errors import NotFoundError
from routing_service.models import Batch, BatchState, Budget
from routing_service.pricing import format_usd, format_usd_up


def plan_object(session: Session, api_key_id: str, batch_id: str) -> tuple[dict[str, Any], bool]:
    """The plan of a preview, and whether it is there: False while its lines are still read and scored.

    NotFoundError for a batch that was not made to show its plan.
    """
    batch = own_batch(session, api_key_id, batch_id)
    if batch.preview is None:
        message = f"Batch '{batch_id}' has no plan to show: POST /v1/batches/plan makes one that has."
        raise NotFoundError(message, code="not_a_plan", param="id")
    scored = session.scalar(_SCORED, {"id": batch_id}) or 0
    limit = session.scalars(select(Budget.limit_nano).where(Budget.batch_id == batch_id)).one() + batch.explore_nano
    pending = not batch.preview and batch.state in (BatchState.VALIDATING, BatchState.IN_PROGRESS)
    return {
        "id": batch.id,
        "object": "batch.plan",
        "status": _status(batch),
        "requests": {"total": batch.total, "scored": scored},
        "mode": batch.options.get("mode"),
        "router": batch.router,
        "router_version": batch.router_version_id,
        "candidates": batch.candidates,
        "unscored": batch.unscored,
        "unscored_reason": batch.unscored_reason,
        "budget_usd": format_usd(limit) if limit else None,
        **_found(batch.preview, limit),
    }, not pending


_SCORED = text("select sum(last_line - first_line + 1) from score_ranges where batch_id = :id and done_at is not null")


def _status(batch: Batch) -> str:
    """`scoring` and `ready` of a plan that waits; else how far the batch is."""
    if batch.state is not BatchState.IN_PROGRESS:
        return batch.state
    return {"pending": "scoring"}.get(state := plan_state(batch) or "", state)


def _found(preview: dict[str, Any], limit_nano: int) -> dict[str, Any]:
    if not preview:
        return {}
    return {
        "least_budget_usd": format_usd_up(preview["least_nano"]),
        "all_weak_usd": format_usd(preview["weak_nano"]),
        "all_strong_usd": format_usd(preview["strong_nano"]),
        "interval": preview["interval"],
        "ladder": [_rung(rung) for rung in preview["ladder"]],
        "chosen": _rung(preview["chosen"]) if preview["chosen"] else None,
        "budget_too_small": 0 < limit_nano < preview["least_nano"],
    }


def _rung(rung: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in rung.items() if not key.endswith("_nano")}
    money = {"budget_usd": format_usd(rung["budget_nano"]), "expected_cost_usd": format_usd(rung["cost_nano"])}
    return money | shown
