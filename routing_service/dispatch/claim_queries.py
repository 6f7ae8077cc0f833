"""The SQL of claiming: reading a batch's plan and candidates, writing attempts, decisions and reservations.

Everything runs in the claiming transaction; `claim.py` decides between the reading and the writing.

Which model a claimed row's plan names, found again from what is stored of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import TextClause, text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.dispatch.quarantine import QuarantineLimits
from routing_service.errors import LeaseLostError
from routing_service.models import BatchPurpose, Reason
from routing_service.money.pricing import Price, PriceBook
from routing_service.planning import NEVER, Damping, chosen, steps
from routing_service.plans.holdback import HoldbackCutoff
from routing_service.scoring.ranking import BY_COST, Columns, allowed
from routing_service.settings import Settings
from routing_service.upstream.circuit_breaker import Circuits


@dataclass(frozen=True, slots=True)
class StoredPlan:
    batch_id: str
    api_key_id: str
    priority: int
    line_priorities: tuple[int, ...]  # the highest first
    candidates: tuple[str, ...]  # the cheapest first
    mode: str
    damping: Damping | None
    stops: bool  # on_budget: stop
    unscored: bool
    shadow_price: float
    cut_line: int
    floor_nano: int
    floor_factor: float  # what the floor really costs over what it holds
    probes: int | None
    holdback: HoldbackCutoff | None
    is_corrected: bool  # it was cut anew by what answers cost
    router_version_id: int | None
    purpose: BatchPurpose = BatchPurpose.CLIENT

    @property
    def cheapest(self) -> str:
        return self.candidates[0]

    @property
    def dearer(self) -> tuple[str, ...]:
        """What lines are upgraded to. Of a companion none is: they go out in their order, whoever they are for."""
        return self.candidates[1:] if self.purpose is BatchPurpose.CLIENT else ()


@dataclass(frozen=True, slots=True)
class Choice:
    row: Row[Any]
    model: str
    reason: Reason
    price: Price
    worst_nano: int


def hold_lease(session: Session, pump_id: int) -> None:
    query = text("select 1 from pumps where id = :id and expires_at > now() for share")
    if session.scalar(query, {"id": pump_id}) is None:
        raise LeaseLostError(f"pump {pump_id} no longer holds its lease")


def lock_plan(session: Session, batch_id: str) -> StoredPlan | None:
    row = session.execute(
        text(
            "select id, api_key_id, priority, line_priorities, candidates, options, unscored, cost_power,"
            " mean_extra_nano, shadow_price, cut_line, floor_nano, floor_factor, probes, reserve_ratio, reserve_line,"
            " cost_factors is not null as is_corrected, router_version_id, purpose::text from batches where id = :id"
            " and state = 'in_progress' and planned_at is not null and paused is null and expires_at > now()"
            " for no key update"
        ),
        {"id": batch_id},
    ).one_or_none()
    if row is None:
        return None
    return StoredPlan(
        row.id,
        row.api_key_id,
        row.priority,
        tuple(row.line_priorities),
        tuple(row.candidates),
        row.options.get("mode", "plan"),
        Damping(row.cost_power, tuple(row.mean_extra_nano)) if row.mean_extra_nano else None,
        row.options.get("on_budget", "stop") == "stop",
        row.unscored,
        row.shadow_price,
        row.cut_line,
        row.floor_nano,
        row.floor_factor,
        row.probes,
        None if row.reserve_ratio is None else HoldbackCutoff(row.reserve_ratio, row.reserve_line),
        row.is_corrected,
        row.router_version_id,
        BatchPurpose(row.purpose),
    )


# The first condition is for the index: without it an empty strong end is found by reading the whole weak one.
_UPGRADED = "ratio >= :price and (ratio > :price or line <= :cut)"
_KEPT = "ratio <= :price and (ratio < :price or line > :cut)"
_ROWS = """
select ctid::text as place, line, coalesce(fallback, pinned) as pinned, fallback, max_cost_nano, input_bytes,
       output_cap, choices, priority, answers, win_rate, quality, ratio, floor_nano, attempts, losses, cost_nano,
       expected_cost_nano, call_digest, propensity, body
from requests where batch_id = :id and state = 'scored' and priority = :priority
  and (not_before is null or not_before <= now())
  and coalesce(coalesce(fallback, pinned) <> all(cast(:shut as text[])), true)
  and losses between :least and :most and {side}
order by {first}ratio {direction}, line {direction} limit :limit for update skip locked
"""

# By the order of the index: by `exists` the planner may read the whole table to find none.
_ANY_UPGRADED = text(
    f"select true from requests where batch_id = :id and state = 'scored' and priority = :priority and {_UPGRADED}"  # noqa: S608
    " order by ratio limit :limit"
)


def candidates(
    session: Session,
    plan: StoredPlan,
    claim_chunk: int,
    slots: Mapping[str, int],
    circuits: Circuits,
    stopped: set[str],
    quarantine: QuarantineLimits,
) -> list[Row[Any]]:
    """Rows from both ends, the strong end first: at most a chunk of them, at most the free slots of each end's model.
    Lines of a higher priority come before all others.

    Where a model of an end is on trial, what was tried least comes first: a long outage is not to use up the
    attempts of a few lines, and one that is refused for what it says is not to be the trial again.
    """
    shut = {*circuits.shut, *stopped}
    if plan.purpose is not BatchPurpose.CLIENT:  # its models share one end: what waits for one must not hide the others
        shut |= {model for model, free in slots.items() if not free}
    values = {"id": plan.batch_id, "shut": [*shut], "least": quarantine.least_losses, "most": quarantine.most_losses}
    values |= {"price": plan.shadow_price, "cut": plan.cut_line}
    dearer = plan.dearer
    strong = min(claim_chunk, sum(slots.get(model, 0) for model in dearer))
    rows: list[Row[Any]] = []
    if strong > 0:
        first = "attempts, " if circuits.on_trial & set(dearer) else ""
        query = text(_ROWS.format(side=_UPGRADED, direction="desc", first=first))
        rows += _by_priority(session, plan, query, values, strong)
    # The weak end also holds what is pinned to models outside the plan.
    weak = min(claim_chunk, sum(free for model, free in slots.items() if model not in dearer or strong == 0))
    if weak > 0:
        if plan.holdback and not plan.probes and (rows or _by_priority(session, plan, _ANY_UPGRADED, values, 1)):
            values |= {"price": plan.holdback.ratio, "cut": plan.holdback.line}
        first = "attempts, " if circuits.on_trial - set(dearer) else ""
        query = text(_ROWS.format(side=_KEPT, direction="asc", first=first))
        rows += _by_priority(session, plan, query, values, weak)
    return sorted(rows, key=lambda row: -row.priority)


def _by_priority(
    session: Session, plan: StoredPlan, query: TextClause, values: dict[str, Any], limit: int
) -> list[Row[Any]]:
    """At most `limit` rows: a query for each priority, since the index serves one after the other."""
    rows: list[Row[Any]] = []
    for priority in plan.line_priorities:
        if len(rows) < limit:
            rows += session.execute(query, {**values, "priority": priority, "limit": limit - len(rows)}).all()
    return rows


def insert_attempts(
    session: Session, settings: Settings, pump_id: int, plan: StoredPlan, chosen: list[Choice], at: datetime
) -> list[int]:
    """Write the attempts as started `at`, the moment that chose the periods of their budgets. Returns their ids."""
    inserted = session.execute(
        text(
            "insert into attempts (batch_id, line, number, pump_id, model, upstream_model, input_price,"
            " cached_input_price, output_price, reserved_nano, bounds, started_at)"
            " select :batch, l, n, :pump, m, u, p, c, o, r, b, cast(:at as timestamptz) from unnest(cast(:l as int[]),"
            " cast(:n as int[]), cast(:m as text[]), cast(:u as text[]), cast(:p as bigint[]), cast(:c as bigint[]),"
            " cast(:o as bigint[]), cast(:r as bigint[]), cast(:b as text[])) as t(l, n, m, u, p, c, o, r, b)"
            " returning line, id"
        ),
        {
            "batch": plan.batch_id,
            "pump": pump_id,
            "at": at,
            "l": [c.row.line for c in chosen],
            "n": [c.row.attempts + 1 for c in chosen],
            "m": [c.model for c in chosen],
            "u": [settings.models[c.model].name for c in chosen],
            "p": [c.price.input for c in chosen],
            "c": [c.price.cached_input for c in chosen],
            "o": [c.price.output for c in chosen],
            "r": [c.worst_nano for c in chosen],
            "b": [settings.models[c.model].bounds for c in chosen],
        },
    )
    ids = {row.line: row.id for row in inserted}
    return [ids[choice.row.line] for choice in chosen]


def insert_decisions(session: Session, plan: StoredPlan, chosen: list[Choice]) -> None:
    session.execute(
        text(
            "insert into decisions (batch_id, line, number, model, reason, win_rate, gain, shadow_price,"
            " router_version_id, propensity) select :batch, l, n, m, cast(r as reason), w, g, :price, :version,"
            " coalesce(p, 1) from unnest(cast(:l as int[]), cast(:n as int[]), cast(:m as text[]), cast(:r as text[]),"
            " cast(:w as real[]), cast(:g as real[]), cast(:p as real[])) as t(l, n, m, r, w, g, p)"
        ),
        {
            "batch": plan.batch_id,
            "price": plan.shadow_price,
            "version": plan.router_version_id,
            "l": [c.row.line for c in chosen],
            "n": [c.row.attempts + 1 for c in chosen],
            "m": [c.model for c in chosen],
            "r": [c.reason for c in chosen],
            "w": [c.row.win_rate for c in chosen],
            "p": [c.row.propensity for c in chosen],
            "g": [2 * (c.row.quality[-1] - c.row.quality[0]) if c.row.quality else None for c in chosen],
        },
    )


# What is marked was read `for update` in this transaction: it is scored, and its place stays. Asked for by line or by
# state, the planner may read the whole batch: how much of it is scored, its statistics learn only minutes later.
PLACES = "cast(cast(:places as text[]) as tid[])"


def mark_dispatching(session: Session, pump_id: int, chosen: list[Choice]) -> None:
    session.execute(
        text(
            "update requests q set state = 'dispatching', pump_id = :pump, attempts = attempts + 1, not_before = null,"  # noqa: S608
            f" model = t.m, reason = cast(t.r as reason) from unnest({PLACES}, cast(:m as text[]),"
            " cast(:r as text[])) as t(place, m, r) where q.ctid = t.place"
        ),
        {
            "pump": pump_id,
            "places": [c.row.place for c in chosen],
            "m": [c.model for c in chosen],
            "r": [c.reason for c in chosen],
        },
    )


def planned_models(rows: Sequence[Any], plan: StoredPlan, settings: Settings, prices: PriceBook) -> dict[int, str]:
    """By line, the candidate that shadow price and cut line mean; what is pinned is left to the caller."""
    line = np.array([row.line for row in rows], dtype=np.int64)
    m = len(plan.candidates)
    if m > 2 and plan.mode in BY_COST:
        cost = np.array([row.expected_cost_nano for row in rows], dtype=np.int64)
        answers = np.array([row.answers for row in rows], dtype=np.float64)
        quality = np.array([row.quality for row in rows], dtype=np.float32) * answers[:, None]
        may = allowed(Columns.of(rows), plan.candidates, settings, prices)
        step = steps(cost, np.where(may, quality, NEVER), plan.damping)
    else:
        step = np.full((len(rows), m), NEVER)
        step[:, 0] = np.inf
        if m > 1:
            step[:, -1] = [row.ratio for row in rows]
    models = chosen(step, line, plan.shadow_price, plan.cut_line)
    return dict(zip(line.tolist(), (plan.candidates[model] for model in models.tolist()), strict=True))
