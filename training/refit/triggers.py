"""Whether a re-fit is due: so many comparisons are new, or traffic has drifted away from what routers were fitted on.

(The third trigger is the clock, which is Celery beat's.) After a re-fit that failed or died an hour passes before
another one is asked for, so that what makes it fail does not make it run without end.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.models import Comparison, Refit, RefitOutcome, RefitTrigger
from routing_service.routers.random import RandomRouter
from routing_service.settings import Settings
from training.refit.champion import champion
from training.refit.drift import excess_error, traffic_similarity
from training.refit.record import COMPARED, levels, listed
from training.refit.snapshot import compared_since

PAUSE = timedelta(hours=1)
LEAST_FRESH, MOST_FRESH = 200, 1000  # comparisons that calibration is looked at on
BROKEN = (RefitOutcome.FAILED, RefitOutcome.DIED)

__all__ = ["due"]

Due = tuple[RefitTrigger, str]


def due(database: Database, settings: Settings) -> Due | None:
    """What asks for a re-fit, and why in words; None for nothing."""
    with database.transaction() as session:
        if _rests(session):
            return None
        # Those of a re-fit that broke are new still: it has compared nothing.
        compared = select(func.max(Refit.last_comparison_id)).where(Refit.outcome.in_(COMPARED))
        last = session.scalar(compared) or 0
        if (asked := _by_count(session, settings, last)) is not None:
            return asked
        usual = levels(session)
        if (asked := _by_similarity(session, settings, last, usual["similarity"])) is not None:
            return asked
    return _by_calibration(database, settings, last, usual["calibration"])


def _rests(session: Session) -> bool:
    """One runs, or the last one broke a short time ago."""
    last = next(iter(listed(session, 1)), None)
    if last is None or last.outcome == RefitOutcome.RUNNING:
        return last is not None
    return last.outcome in BROKEN and datetime.now(UTC) - (last.ended_at or last.started_at) < PAUSE


def _by_count(session: Session, settings: Settings, last: int) -> Due | None:
    wanted = settings.learning.refit_after
    if not wanted:
        return None
    new = session.scalar(select(func.count()).select_from(Comparison).where(Comparison.id > last)) or 0
    return (RefitTrigger.COMPARISONS, f"{new:,} comparisons are new") if new >= wanted else None


def _by_similarity(session: Session, settings: Settings, last: int, before: float | None) -> Due | None:
    most = settings.learning.drift_similarity_drop
    if not most or before is None:
        return None
    now = traffic_similarity(session, last)
    if now is None or before - now <= most:
        return None
    return (
        RefitTrigger.DRIFT,
        f"the last week's prompts are less like the compared ones: {before:.3f} before, {now:.3f}",
    )


def _by_calibration(database: Database, settings: Settings, last: int, before: float | None) -> Due | None:
    most = settings.learning.drift_calibration_rise
    if not most or before is None or len(settings.candidates) < 2:
        return None
    with database.transaction() as session:
        fresh = compared_since(session, settings, last, MOST_FRESH)
    if len(fresh) < LEAST_FRESH:
        return None
    router = champion(database, settings).router
    if isinstance(router, RandomRouter):  # its rates say nothing, so that they cannot come to say less
        return None
    strong, weak = settings.candidates[-1], settings.candidates[0]
    rates = router.win_rates(fresh.prompts, strong, weak)
    now = excess_error(np.asarray(rates, float), fresh.gain)
    if now - before <= most:
        return None
    return RefitTrigger.DRIFT, f"win rates are further off on new comparisons: {before:.3f} before, {now:.3f}"
