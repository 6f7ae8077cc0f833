"""Pausing: a batch in progress stands still for a cause that its client sees. It expires if nobody removes the cause.

`budget`: its money does not cover the next request. `key_budget`: a budget of its API key does not; the sweep resumes
it when the key's next period begins, the limit is raised, or room came back. `model_removed`: a model of its plan is no
longer configured; the sweep resumes it when the model is back. `model_refused`: what is left of it is for a model whose
upstream refuses our calls; the sweep resumes it for a trial, and for good when one was answered. `model_stopped`: what
is left of it is for a model that was billed above its bounds; the sweep resumes it when these are corrected.
`approval`: it was made to show its plan. `client`: its client wants it so, see client_pause. What was answered stays.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.money.budgets import STANDING
from routing_service.settings import Settings
from routing_service.upstream.circuit_breaker import Circuits, stopped_models

log = logging.getLogger(__name__)

BUDGET, KEY_BUDGET, APPROVAL, CLIENT = "budget", "key_budget", "approval", "client"
MODEL_REMOVED, MODEL_REFUSED, MODEL_STOPPED = "model_removed", "model_refused", "model_stopped"
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
            " (select batch.id from batches batch where batch.state = 'in_progress'"
            " and batch.paused = :cause and batch.paused_needs_nano"
            f" <= all (select standing.left_nano from ({STANDING}) standing"
            " where standing.api_key_id = batch.api_key_id)"
            " order by batch.id for no key update of batch skip locked)"
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


def pause_for_refusals(session: Session, batch_id: str, circuits: Circuits) -> None:
    """Pause a batch that a claim found nothing to send of, if models that refuse us are all that it waits for."""
    refused = [row for row in circuits.refused() if not row.is_due]
    if not refused or not session.scalar(_STANDS_STILL, {"id": batch_id}):
        return
    reasons = (f"the model {row.model!r} refuses calls ({row.status_code}: {row.message})" for row in refused)
    reason = f"What is left waits for an upstream: {'; '.join(reasons)}. It is asked again from time to time."
    if _pause(session, batch_id, MODEL_REFUSED, reason):
        log.warning("batch %s is paused: it waits for %s", batch_id, ", ".join(row.model for row in refused))


def pause_for_stops(session: Session, batch_id: str, stopped: set[str]) -> None:
    """Pause a batch that a claim found nothing to send of, though no model is held back but those that are stopped."""
    if not stopped or not session.scalar(_STANDS_STILL, {"id": batch_id}):
        return
    names = ", ".join(map(repr, sorted(stopped)))
    reason = f"What is left waits for {names}: billed above the bounds of its calls, until its operator corrects them."
    if _pause(session, batch_id, MODEL_STOPPED, reason):
        log.warning("batch %s is paused: it waits for models that are stopped, %s", batch_id, names)


# Nothing of it is in flight, and nothing will fall due.
_STANDS_STILL = text(
    "select reserved_nano = 0 and exists (select from requests where batch_id = :id and state = 'scored')"
    " and not exists (select from requests where batch_id = :id and state = 'scored' and not_before > now())"
    " from budgets where batch_id = :id"
)


def resume_after_refusals(session: Session, settings: Settings) -> None:
    """Let batches go on that waited for a model which answers again, or may be asked whether it does."""
    blocked = [row.model for row in Circuits.of(session, settings.models).refused() if not row.is_due]
    _resume_unless_for(session, MODEL_REFUSED, blocked)


def resume_after_stops(session: Session, settings: Settings) -> None:
    """Let batches go on that waited for a model whose bounds are corrected."""
    _resume_unless_for(session, MODEL_STOPPED, sorted(stopped_models(session, settings)))


def _resume_unless_for(session: Session, cause: str, blocked: list[str]) -> None:
    """Let batches go on that stand still for the cause, unless they may have requests for models in `blocked`."""
    session.execute(
        text(
            "update batches set paused = null, paused_reason = null where id in (select id from batches batch"
            " where state = 'in_progress' and paused = :cause and not candidates && cast(:blocked as text[])"
            " and (cardinality(cast(:blocked as text[])) = 0 or not exists (select from requests request"
            " where request.batch_id = batch.id and request.state = 'scored'"
            " and coalesce(request.fallback, request.pinned) = any(:blocked)))"
            " order by id for no key update skip locked)"
        ),
        {"cause": cause, "blocked": blocked},
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
