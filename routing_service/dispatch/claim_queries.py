"""The SQL of a claim: what it reads (the plan, the rows from both ends of it) and writes (attempts, decisions).

Everything runs in the claiming transaction; `claim` locks and `admission` decides in between. A plan is stored as a
shadow price and a cut line; `planned_models` finds out from them which model each row is for.
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

from routing_service.db import Unnest, array
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
    """A batch's plan as its locked row holds it, and what else of the row a claim needs."""

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
    probes: int | None  # calls to each candidate that come before the rest
    holdback: HoldbackCutoff | None  # None: nothing is held back
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
    """A row and the model that it goes to. `worst_nano`: what is reserved for it."""

    row: Row[Any]
    model: str
    reason: Reason
    price: Price
    worst_nano: int


def hold_lease(session: Session, pump_id: int) -> None:
    """Lock the pump's row against the sweep. Raises LeaseLostError if its lease has run out."""
    query = text("select 1 from pumps where id = :id and expires_at > now() for share")
    if session.scalar(query, {"id": pump_id}) is None:
        raise LeaseLostError(f"pump {pump_id} no longer holds its lease")


def lock_plan(session: Session, batch_id: str) -> StoredPlan | None:
    """Lock the batch and read its plan; None for a batch that nothing may be sent of now."""
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
        batch_id=row.id,
        api_key_id=row.api_key_id,
        priority=row.priority,
        line_priorities=tuple(row.line_priorities),
        candidates=tuple(row.candidates),
        mode=row.options.get("mode", "plan"),
        damping=Damping(row.cost_power, tuple(row.mean_extra_nano)) if row.mean_extra_nano else None,
        stops=row.options.get("on_budget", "stop") == "stop",
        unscored=row.unscored,
        shadow_price=row.shadow_price,
        cut_line=row.cut_line,
        floor_nano=row.floor_nano,
        floor_factor=row.floor_factor,
        probes=row.probes,
        holdback=None if row.reserve_ratio is None else HoldbackCutoff(row.reserve_ratio, row.reserve_line),
        is_corrected=row.is_corrected,
        router_version_id=row.router_version_id,
        purpose=BatchPurpose(row.purpose),
    )


# The first condition is for the index: without it an empty strong end is found by reading the whole weak one.
_STRONG_END = "ratio >= :price and (ratio > :price or line <= :cut)"
_WEAK_END = "ratio <= :price and (ratio < :price or line > :cut)"
_ROWS = """
select ctid::text as place, line, coalesce(fallback, pinned) as pinned, fallback, max_cost_nano, input_bytes,
       output_cap, choices, priority, answers, win_rate, quality, ratio, floor_nano, attempts, losses, cost_nano,
       expected_cost_nano, call_digest, propensity, body
from requests where batch_id = :id and state = 'scored' and priority = :priority
  and (not_before is null or not_before <= now())
  and coalesce(coalesce(fallback, pinned) <> all(cast(:blocked as text[])), true)
  and losses between :least and :most and {side}
order by {first}ratio {direction}, line {direction} limit :limit for update skip locked
"""

# By the order of the index: by `exists` the planner may read the whole table to find none.
_ANY_STRONG_END = text(
    f"select true from requests where batch_id = :id and state = 'scored' and priority = :priority and {_STRONG_END}"  # noqa: S608
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
    blocked = {*circuits.blocked, *stopped}
    if plan.purpose is not BatchPurpose.CLIENT:  # its models share one end: what waits for one must not hide the others
        blocked |= {model for model, free in slots.items() if not free}
    values = {"id": plan.batch_id, "blocked": [*blocked], "price": plan.shadow_price, "cut": plan.cut_line}
    values |= {"least": quarantine.least_losses, "most": quarantine.most_losses}
    dearer = plan.dearer
    strong = min(claim_chunk, sum(slots.get(model, 0) for model in dearer))
    rows: list[Row[Any]] = []
    if strong > 0:
        first = "attempts, " if circuits.on_trial & set(dearer) else ""
        query = text(_ROWS.format(side=_STRONG_END, direction="desc", first=first))
        rows += _by_priority(session, plan, query, values, strong)
    # The weak end also holds what is pinned to models outside the plan.
    weak = min(claim_chunk, sum(free for model, free in slots.items() if model not in dearer or strong == 0))
    if weak > 0:
        if plan.holdback and not plan.probes and (rows or _by_priority(session, plan, _ANY_STRONG_END, values, 1)):
            values |= {"price": plan.holdback.ratio, "cut": plan.holdback.line}
        first = "attempts, " if circuits.on_trial - set(dearer) else ""
        query = text(_ROWS.format(side=_WEAK_END, direction="asc", first=first))
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


_ATTEMPTS = Unnest(
    "attempt",
    {
        "line": "int",
        "number": "int",
        "model": "text",
        "upstream_model": "text",
        "input_price": "bigint",
        "cached_input_price": "bigint",
        "output_price": "bigint",
        "reserved_nano": "bigint",
        "bounds": "text",
    },
)
_INSERT_ATTEMPTS = text(f"""
insert into attempts (batch_id, pump_id, started_at, {", ".join(_ATTEMPTS.columns)})
select :batch, :pump, cast(:at as timestamptz), attempt.* from {_ATTEMPTS}
returning line, id
""")  # noqa: S608


def insert_attempts(
    session: Session, settings: Settings, pump_id: int, plan: StoredPlan, chosen: list[Choice], at: datetime
) -> list[int]:
    """Write the attempts as started `at`, the moment that chose the periods of their budgets. Returns their ids."""
    attempts = _ATTEMPTS.parameters(
        line=[choice.row.line for choice in chosen],
        number=[choice.row.attempts + 1 for choice in chosen],
        model=[choice.model for choice in chosen],
        upstream_model=[settings.models[choice.model].name for choice in chosen],
        input_price=[choice.price.input for choice in chosen],
        cached_input_price=[choice.price.cached_input for choice in chosen],
        output_price=[choice.price.output for choice in chosen],
        reserved_nano=[choice.worst_nano for choice in chosen],
        bounds=[settings.models[choice.model].bounds for choice in chosen],
    )
    inserted = session.execute(_INSERT_ATTEMPTS, {"batch": plan.batch_id, "pump": pump_id, "at": at, **attempts})
    ids = {row.line: row.id for row in inserted}
    return [ids[choice.row.line] for choice in chosen]


_DECISIONS = Unnest(
    "decision",
    {
        "line": "int",
        "number": "int",
        "model": "text",
        "reason": "reason",
        "win_rate": "real",
        "gain": "real",
        "propensity": "real",
    },
)
_INSERT_DECISIONS = text(f"""
insert into decisions (batch_id, shadow_price, router_version_id, {", ".join(_DECISIONS.columns)})
select :batch, :price, :version, line, number, model, reason, win_rate, gain, coalesce(propensity, 1)
from {_DECISIONS}
""")  # noqa: S608


def insert_decisions(session: Session, plan: StoredPlan, chosen: list[Choice]) -> None:
    decisions = _DECISIONS.parameters(
        line=[choice.row.line for choice in chosen],
        number=[choice.row.attempts + 1 for choice in chosen],
        model=[choice.model for choice in chosen],
        reason=[choice.reason for choice in chosen],
        win_rate=[choice.row.win_rate for choice in chosen],
        gain=[_gain(choice.row) for choice in chosen],
        propensity=[choice.row.propensity for choice in chosen],
    )
    stored = {"batch": plan.batch_id, "price": plan.shadow_price, "version": plan.router_version_id}
    session.execute(_INSERT_DECISIONS, stored | decisions)


def _gain(row: Row[Any]) -> float | None:
    """Of the dearest candidate over the cheapest; None for a line without scores."""
    return 2 * (row.quality[-1] - row.quality[0]) if row.quality else None


# What is marked was read `for update` in this transaction: it is scored, and its place (ctid) stays. Asked for by line
# or by state, the planner may read the whole batch: how much of it is scored, its statistics learn only minutes later.
ROW_PLACES = array("places", "tid")
_DISPATCHED = Unnest("dispatched", {"place": "tid", "model": "text", "reason": "reason"})
_MARK_DISPATCHING = text(f"""
update requests set state = 'dispatching', pump_id = :pump, attempts = attempts + 1, not_before = null,
       model = dispatched.model, reason = dispatched.reason
from {_DISPATCHED} where requests.ctid = dispatched.place
""")  # noqa: S608


def mark_dispatching(session: Session, pump_id: int, chosen: list[Choice]) -> None:
    dispatched = _DISPATCHED.parameters(
        place=[choice.row.place for choice in chosen],
        model=[choice.model for choice in chosen],
        reason=[choice.reason for choice in chosen],
    )
    session.execute(_MARK_DISPATCHING, {"pump": pump_id, **dispatched})
