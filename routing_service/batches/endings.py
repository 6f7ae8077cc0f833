"""Why a request ends in a claim, without a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.batches.claim_rows import PLACES
from routing_service.models import Reason, RequestState


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a request ends without a call."""

    state: RequestState
    reason: Reason
    code: str
    message: str


UNAFFORDABLE = Ending(
    RequestState.UNAFFORDABLE,
    Reason.BUDGET,
    "budget_exhausted",
    "The budget cannot cover this request's worst case.",
)
HOMELESS = Ending(
    RequestState.FAILED,
    Reason.PINNED,
    "model_removed",
    "The model that this request is pinned to is no longer configured.",
)


def mark_given_up(session: Session, batch_id: str, rows: list[Row[Any]]) -> None:
    """End requests with what became of their last attempt."""
    if not rows:
        return
    session.execute(
        text(
            "update requests q set state = 'failed', finished_at = now(), model = null, error_code = a.error_code,"  # noqa: S608
            " error_message = a.error_message from attempts a where a.batch_id = :id and a.batch_id = q.batch_id"
            f" and a.line = q.line and a.number = q.attempts and q.ctid = any({PLACES})"
        ),
        {"id": batch_id, "places": [row.place for row in rows]},
    )


def mark_ended(session: Session, ending: Ending, rows: list[Row[Any]]) -> None:
    if not rows:
        return
    session.execute(
        text(
            "update requests set state = cast(:state as request_state), finished_at = now(), model = null,"  # noqa: S608
            " reason = cast(:reason as reason), error_code = :code, error_message = :message"
            f" where ctid = any({PLACES})"
        ),
        {
            "state": ending.state,
            "reason": ending.reason,
            "code": ending.code,
            "message": ending.message,
            "places": [row.place for row in rows],
        },
    )
