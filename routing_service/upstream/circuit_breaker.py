"""The circuit breaker: a model whose upstream refuses us, or fails call after call, is left alone until it answers.

A circuit opens for one of two causes. `refused`: the upstream answered 401 or 403, which the operator has to mend.
`failing`: FAILURES calls in a row came to nothing, of whichever pump. While it is open nothing is claimed for its model
but a trial, one call from time to time; any answer closes it. A circuit belongs to a model as it is configured: with
another address, name or key it has another one, which is closed.

No library does this. Theirs guard a function in the memory of one process. This one is a row that all pumps share and
that outlives them; it is asked before requests are claimed, so that none waits with its money reserved; and it moves in
the transaction that settles the calls, where the death of a worker, the refusal of one request and the refusal of us
are told apart. The row is locked after everything else.

Stopped models are another matter: one that was billed above its bounds gets nothing more until they are corrected.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.models import CircuitCause
from routing_service.settings import ModelSettings, Settings
from routing_service.upstream.outcome import LOST, STOPPED, Outcome

log = logging.getLogger(__name__)
FAILURES = 10  # in a row, each within ten minutes of the one before


@dataclass(frozen=True, slots=True)
class TrialDelays:
    """Seconds before each trial: drawn with full jitter from a range that doubles. `least_s`: never less."""

    least_s: float
    first_s: float
    most_s: float

    def draw(self, trials: int, rng: random.Random) -> float:
        """The delay after so many trials."""
        return rng.uniform(self.least_s, min(self.most_s, self.first_s * 2 ** min(trials, 30)))


TRIAL_DELAYS = {CircuitCause.REFUSED: TrialDelays(30, 60, 600), CircuitCause.FAILING: TrialDelays(0, 1, 60)}


@dataclass(frozen=True, slots=True)
class Circuits:
    """The open circuits, by model. `is_due` of a row: it is time for a trial (the circuit is half open)."""

    open: Mapping[str, Row[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, session: Session, models: Mapping[str, ModelSettings]) -> Circuits:
        """Read those of the models as they are configured here."""
        query = text(
            "select model, upstream, cause::text as cause, trial_at <= now() as is_due, trials, status_code, message"
            " from model_circuits where cause is not null"
        )
        rows = session.execute(query).all()
        return cls({r.model: r for r in rows if r.model in models and models[r.model].fingerprint == r.upstream})

    @property
    def blocked(self) -> set[str]:
        """Models that nothing is sent to."""
        return {model for model, row in self.open.items() if not row.is_due}

    @property
    def on_trial(self) -> set[str]:
        """Models that one call may be sent to."""
        return self.open.keys() - self.blocked

    def refused(self) -> list[Row[Any]]:
        """Those that the operator has to mend."""
        return [row for row in self.open.values() if row.cause == CircuitCause.REFUSED]

    def limit(self, slots: Mapping[str, int]) -> dict[str, int]:
        """The slots that open circuits leave."""
        least = dict.fromkeys(self.blocked, 0) | dict.fromkeys(self.on_trial, 1)
        return {model: min(free, least.get(model, free)) for model, free in slots.items()}

    def schedule_trials(self, session: Session, models: set[str], rng: random.Random) -> None:
        """Calls to these models were claimed: where they are trials, the next one comes after a delay."""
        for model in sorted(self.on_trial & models):
            row = self.open[model]
            delay_s = TRIAL_DELAYS[CircuitCause(row.cause)].draw(row.trials + 1, rng)
            session.execute(
                text(
                    "update model_circuits set trials = trials + 1, trial_at = now() + make_interval(secs => :delay_s)"
                    " where model = :model and upstream = :upstream and cause is not null"
                ),
                {"model": model, "upstream": row.upstream, "delay_s": delay_s},
            )


def open_circuits(session: Session) -> Sequence[Row[Any]]:
    """All open circuits, whichever configuration they belong to."""
    query = text(
        "select model, cause::text as cause, opened_at, trial_at, status_code, message from model_circuits"
        " where cause is not null order by model, opened_at"
    )
    return session.execute(query).all()


def close_circuits(session: Session, model: str) -> bool:
    """Forget what is known against a model. Returns whether anything was sent to it less for that."""
    rows = session.execute(text("delete from model_circuits where model = :model returning cause"), {"model": model})
    return any(row.cause for row in rows)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that came back."""

    model: str
    attempt_id: int
    outcome: Outcome

    @property
    def trouble(self) -> CircuitCause | None:
        """What it says against its upstream."""
        if self.outcome.refuses_us:
            return CircuitCause.REFUSED
        if self.outcome in (LOST, STOPPED):
            return None
        failed = self.outcome.retry and (self.outcome.status_code is None or self.outcome.status_code >= 500)
        return CircuitCause.FAILING if failed else None

    @property
    def is_fine(self) -> bool:
        """Whether its upstream does its work; what is only to be asked again says nothing of that."""
        return self.trouble is None and not self.outcome.retry


def record(session: Session, models: Mapping[str, ModelSettings], calls: Sequence[Call], rng: random.Random) -> None:
    """Open and close circuits by what came back, in the order in which it did."""
    by_model: dict[str, list[Call]] = {}
    for call in calls:
        by_model.setdefault(call.model, []).append(call)
    query = text("select model, upstream from model_circuits where failures > 0 or cause is not null")
    troubled = {(row.model, row.upstream) for row in session.execute(query)}
    for model in sorted(by_model.keys() & models.keys()):
        upstream = models[model].fingerprint
        if (model, upstream) in troubled or any(call.trouble for call in by_model[model]):
            _move(session, model, upstream, by_model[model], rng)


_ADD = text("insert into model_circuits (model, upstream) values (:model, :upstream) on conflict do nothing")
_READ = text(
    "select failures, cause::text as cause, failed_at > now() - interval '10 minutes' as is_recent,"
    " coalesce(status_code = 401 and opened_at >= (select max(started_at) from attempts where id = any(:fine)), false)"
    " as is_older from model_circuits where model = :model and upstream = :upstream for update"
)
_WRITE = text(
    "update model_circuits set failures = :failures, failed_at = case when :failed then now() else failed_at end,"
    " cause = cast(:cause as circuit_cause), opened_at = case when :opens then now() when :open then opened_at end,"
    " trial_at = case when :opens then now() + make_interval(secs => :delay) when :open then trial_at end,"
    " trials = case when :open and not :opens then trials else 0 end,"
    " status_code = case when :failed then :status else status_code end,"
    " message = case when :failed then :message else message end,"
    " answered_at = coalesce((select max(started_at) from attempts where id = any(:fine)), answered_at)"
    " where model = :model and upstream = :upstream"
)


def _move(session: Session, model: str, upstream: str, calls: Sequence[Call], rng: random.Random) -> None:
    names = {"model": model, "upstream": upstream}
    fine = [call.attempt_id for call in calls if call.is_fine]
    session.execute(_ADD, names)
    old = session.execute(_READ, names | {"fine": fine}).one()
    if old.is_older:  # a key that was withdrawn meanwhile is not proved good by a call from before
        fine = []
    last = max((n for n, call in enumerate(calls) if call.attempt_id in fine), default=-1)
    failed = [call for call in calls[last + 1 :] if call.trouble]
    failures = len(failed) + (old.failures if old.is_recent and not fine else 0)
    was = CircuitCause(old.cause) if old.cause and not fine else None
    cause = was or (CircuitCause.FAILING if failures >= FAILURES else None)
    if any(call.trouble is CircuitCause.REFUSED for call in failed):
        cause = CircuitCause.REFUSED
    outcome = failed[-1].outcome if failed else None
    session.execute(
        _WRITE,
        names
        | {
            "failures": failures,
            "failed": bool(failed),
            "cause": cause,
            "open": cause is not None,
            "opens": cause is not None and cause is not was,
            "delay": TRIAL_DELAYS[cause].draw(0, rng) if cause else 0.0,
            "status": outcome.status_code if outcome else None,
            "message": outcome.error_message if outcome else None,
            "fine": fine,
        },
    )
    _tell(model, old.cause, cause, outcome)


def _tell(model: str, was: str | None, cause: CircuitCause | None, outcome: Outcome | None) -> None:
    """One line in the operator's log for each change."""
    if cause == was:
        return
    if cause is None:
        log.warning("model %s answers again", model)
    elif outcome and cause is CircuitCause.REFUSED:
        log.error(
            "model %s: its upstream refuses our calls (%s: %s). It gets no more than a call from time to time, and"
            " batches that wait for it are paused. Mend its api_key_env, name or base_url and restart, or, when the"
            " upstream's side is mended, `routebatch models reset %s`",
            model,
            outcome.status_code,
            outcome.error_message,
            model,
        )
    elif outcome:
        log.error(
            "model %s: %d calls in a row failed, the last with %s (%s). Its requests wait until a call is answered",
            model,
            FAILURES,
            outcome.error_code,
            outcome.error_message,
        )


def stopped_models(session: Session, settings: Settings) -> set[str]:
    """Models that were billed above the bounds they still have: nothing they do is bounded, so nothing is sent."""
    rows = session.execute(text("select distinct model, bounds from attempts where cost_nano > reserved_nano"))
    return {model for model, bounds in rows if model in settings.models and settings.models[model].bounds == bounds}
