"""Plan: the batch is allocated under its budget. What is stored is the cut, not a row a request.

What may be spent on upgrades is the budget less the floor (what the cheapest models will probably cost) less one worst
case of theirs, so that the last of them can still be reserved. Requests are ranked by gain per dollar; where
predicted costs hardly differ, their differences are mostly error, and count less (`planning.Damping`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from routing_service.batches.pauses import APPROVAL, AWAITS_APPROVAL, pause_for_models
from routing_service.db import Database, try_lock
from routing_service.models import Batch, BatchState, Budget, ScoreRange
from routing_service.money.pricing import PriceBook
from routing_service.planning import NEVER, Damping, Floats, damping_of, steps
from routing_service.plans.holdback import holdback_cutoff, store_holdback
from routing_service.plans.preview import find_preview
from routing_service.plans.probing import probes_for
from routing_service.plans.stored import Scored, cut, read_scored, write_ratios
from routing_service.scoring.ranking import BY_COST, expected_costs
from routing_service.settings import Settings


def plan(database: Database, settings: Settings, prices: PriceBook, batch_id: str) -> bool:
    """Plan a batch whose ranges are all scored. True when the batch has got its plan now and may be dispatched.

    Idempotent: a plan that stands is kept (`replan` moves it). A preview gets what it is there to show, and stands
    still; once it is approved, it is planned like any other batch, from the same scores.
    """
    with database.transaction() as session:
        if not try_lock(session, f"plan:{batch_id}"):
            return False
        batch = session.get(Batch, batch_id)
        if batch is None or batch.state is not BatchState.IN_PROGRESS or _open_ranges(session, batch_id):
            return False
        if batch.planned_at is not None or pause_for_models(session, batch_id, batch.candidates, settings):
            return False
        table = read_scored(session, batch, settings, std=batch.is_preview)
        damping = _damping(table, batch, settings, prices)
        step = _ranked(table, batch, damping, settings, prices)
        if batch.is_preview:
            preview = find_preview(table, step, batch, _available(session, batch), settings, prices)
            _show(session, batch, preview)
            return False
        made = cut(table, step, _available(session, batch), batch, settings, prices)
        if not still_in_progress(session, batch):
            return False
        if damping is not None:
            _store_damping(session, batch, damping, table, step)
        now = session.scalars(select(func.clock_timestamp())).one()
        batch.shadow_price = made.shadow_price
        batch.cut_line = made.cut_line
        batch.expected_gain = made.expected_gain
        batch.expected_cost_nano = made.expected_cost
        batch.probes = probes_for(session, batch, settings)
        if batch.options.get("mode", "plan") == "plan":
            store_holdback(batch, holdback_cutoff(table, _ratios(table, step), made))
        batch.planned_at = now
        return True


def _show(session: Session, batch: Batch, preview: dict[str, Any]) -> None:
    """Store what the preview shows. Requests stay as they are: a plan ranks them when it is made."""
    if not still_in_progress(session, batch):
        return
    batch.preview = preview
    batch.planned_at = session.scalars(select(func.clock_timestamp())).one()
    batch.paused, batch.paused_reason = APPROVAL, AWAITS_APPROVAL


def _store_damping(session: Session, batch: Batch, damping: Damping, table: Scored, step: Floats) -> None:
    batch.cost_power, batch.mean_extra_nano = damping.power, list(damping.mean)
    write_ratios(session, batch.id, table.line, _ratios(table, step))


def _ratios(table: Scored, step: Floats) -> Floats:
    """What requests are claimed by: their first step; what is pinned or never upgraded stays where it is."""
    kept = table.pinned | ~np.isfinite(table.ratio)
    return np.where(kept, table.ratio, step[:, 1:].max(axis=1, initial=NEVER))


def _open_ranges(session: Session, batch_id: str) -> bool:
    query = select(func.count()).where(ScoreRange.batch_id == batch_id, ScoreRange.done_at.is_(None))
    return bool(session.scalar(query))


def still_in_progress(session: Session, batch: Batch) -> bool:
    """Lock the batch's row; the client may have cancelled while the plan was made."""
    session.refresh(batch, with_for_update={"key_share": True})
    return batch.state is BatchState.IN_PROGRESS


def _available(session: Session, batch: Batch) -> int:
    budget = session.scalars(select(Budget).where(Budget.batch_id == batch.id)).one()
    return budget.limit_nano - budget.settled_nano - budget.reserved_nano


def batch_damping(batch: Batch) -> Damping | None:
    """The damping that the batch was planned with."""
    return Damping(batch.cost_power, tuple(batch.mean_extra_nano)) if batch.mean_extra_nano else None


def _damping(table: Scored, batch: Batch, settings: Settings, prices: PriceBook) -> Damping | None:
    """None where the mode does not rank by costs, or they count in full: they differ by much, or by what is known.

    Without a length model all answers are expected to take the prior, and costs differ by inputs and caps alone.
    """
    if len(batch.candidates) < 2 or batch.options.get("mode", "plan") not in BY_COST:
        return None
    routed = ~table.pinned
    by_prior = expected_costs(table.columns, batch.candidates, settings, prices)
    if np.array_equal(table.cost[routed], by_prior[routed]):
        return None
    damping = damping_of(table.cost[routed])
    return damping if damping.power < 1 else None


def _ranked(table: Scored, batch: Batch, damping: Damping | None, settings: Settings, prices: PriceBook) -> Floats:
    """The steps of a batch that is planned now, shape (n, m). A pair's stored ratios are plain: gain per dollar."""
    step = table.steps(batch.candidates, batch.options.get("mode", "plan"), damping, settings, prices)
    if damping is not None and len(batch.candidates) == 2:
        # What a cap forbids, what gains nothing and what is pinned stays where it is.
        step[:, 1] = np.where(np.isfinite(table.ratio), steps(table.cost, table.quality, damping)[:, 1], table.ratio)
    return step
