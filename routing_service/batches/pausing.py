"""Pausing: a batch in progress stands still for a cause that its client sees. It expires if nobody removes the cause.

`budget`: its money does not cover the next request. `key_budget`: a budget of its API key does not; the sweep resumes
it when the key's next period begins, the limit is raised, or room came back. `model_removed`: a model of its plan is no
longer configured; the sweep resumes it when the model is back. `approval`: it was made to show its plan. `client`: its
client wants it so, see client_pause. What was answered stays.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.budgets import STANDING
from routing_service.settings import Settings

log = logging.getLogger(__name__)

BUDGET, KEY_BUDGET, MODEL_REMOVED, APPROVAL, CLIENT = "budget", "key_budget", "model_removed", "approval", "client"
AWAITS_APPROVAL = "This is a plan. Nothing of it is sent, and it costs nothing, until it is approved."


def pause_for_budget(session: Session, batch_id: str) -> None:
    _pause(session, batch_id, BUDGET, "The budget does not cover the worst case of the next request.")


def pause_for_key_budget(session: Session, batch_id: str, reason: str, needs_nano: int) -> None:
    """Pause a batch until all budgets of its key have so much left."""
    _pause(session, batch_id, KEY_BUDGET, reason, needs_nano)


def resume_with_key_budgets(session: Session) -> None:
    """Let batches go on whose keys have room again."""
    session.execute(
        text(
            "update batches set paused = null, paused_reason = null, paused_needs_nano = null where id in"  # noqa: S608
            " (select b.id from batches b where b.state = 'in_progress' and b.paused = :cause and b.paused_needs_nano"
            f" <= all (select s.left_nano from ({STANDING}) s where s.api_key_id = b.api_key_id)"
            " order by b.id for no key update of b skip locked)"
        ),
        {"cause": KEY_BUDGET},
    )


def pause_for_models(session: Session, batch_id: str, candidates: Sequence[str], settings: Settings) -> bool:
    """Pause a batch of which a candidate is no longer configured. False where all of them are."""
    gone = [model for model in candidates if model not in settings.models]
    if gone and _pause(session, batch_id, MODEL_REMOVED, f"The model {gone[0]!r} is no longer configured."):
        log.error("batch %s is paused: its model %r is no longer configured", batch_id, gone[0])
    return bool(gone)


def resume_with_models(session: Session, settings: Settings) -> None:
    """Let batches go on whose models are configured again."""
    session.execute(
        text(
            "update batches set paused = null, paused_reason = null where id in (select id from batches"
            " where state = 'in_progress' and paused = :cause and candidates <@ cast(:models as text[])"
            " order by id for no key update skip locked)"
        ),
        {"cause": MODEL_REMOVED, "models": list(settings.models)},
    )


def _pause(session: Session, batch_id: str, cause: str, reason: str, needs_nano: int | None = None) -> bool:
    """True if this paused it: it was in progress and went on until now."""
    paused = session.scalar(
        text(
            "update batches set paused = :cause, paused_reason = :reason, paused_needs_nano = :needs where id = :id"
            " and state = 'in_progress' and paused is null returning id"
        ),
        {"id": batch_id, "cause": cause, "reason": reason, "needs": needs_nano},
    )
    return paused is not None
