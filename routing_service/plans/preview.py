"""Previews: what a batch would cost and gain at a ladder of budgets, shown before anything is spent.

`find_preview` makes the ladder once, when the batch is planned: by the very cut that the batch will be planned with,
from the same scores. It is stored on the batch as JSON, money in nano-dollars, so that whoever asks for it reads one
row, however many requests there are. `plan_object` is how a client sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from routing_service.batches.exploration_budget import whole_budget
from routing_service.batches.view import own_batch, plan_state
from routing_service.errors import NotFoundError
from routing_service.models import Batch, BatchState, Budget
from routing_service.money.pricing import PriceBook, format_usd, format_usd_up
from routing_service.planning import Floats, Plan, Ranking, Rung, frontier, ladder
from routing_service.plans.preview_basis import basis_of
from routing_service.plans.stored import Scored, cut_within
from routing_service.settings import Settings

INTERVAL = 0.9


def find_preview(
    table: Scored, step: Floats, batch: Batch, limit_nano: int, settings: Settings, prices: PriceBook
) -> dict[str, Any]:
    """`step`: what the plan cuts. `limit_nano`: the batch's own budget, 0 for none. Budgets that are found are whole
    ones: with what is set aside of them for exploration.

    The least budget is what the cheapest models will probably cost and one worst case of theirs, as of any batch.
    """
    assert table.std is not None
    margin = table.largest_worst_case(settings, prices)
    weak = int(table.cost[:, 0].sum())
    least = weak + margin
    free, pinned = ~table.pinned, _Pinned.of(table, settings)
    aside = margin + pinned.cost  # of a budget; the rest is for what the plan decides
    ranking = Ranking.of(table.cost[free], table.quality[free], table.line[free], step[free])
    std = 2 * table.std[free].astype(np.float64)  # of the gain
    served = table.answers[free]

    def at(spendable: int) -> Plan:
        return cut_within(ranking, spendable, batch)

    def rungs(budgets: list[int]) -> list[dict[str, Any]]:
        """At these budgets of the batch."""
        total = int(table.answers.sum())
        plans = frontier(ranking, std, [budget - aside for budget in budgets], at, served)
        return [_shown(rung, batch.candidates, pinned, total, aside) for rung in plans]

    chosen = rungs([limit_nano] if limit_nano >= least else [])
    enough = _enough(rungs([_round_up(budget + aside) for budget in ladder(ranking, at)]), margin)

    def asked_for(own: int) -> int:
        """The budget that leaves so much when what is set aside for exploration is taken off, as amounts are shown."""
        whole = whole_budget(own, batch.options, batch.candidates, settings)
        return own if whole == own else _round_up(whole)

    return {
        "basis": basis_of(batch, [*batch.candidates, *pinned.counts], settings, prices),
        "least_nano": asked_for(least),
        "weak_nano": weak,
        "strong_nano": int(table.cost[:, -1].sum()),
        "interval": INTERVAL,
        "ladder": [rung | {"budget_nano": asked_for(rung["budget_nano"])} for rung in enough],
        "chosen": next((rung | {"budget_nano": limit_nano + batch.explore_nano} for rung in chosen), None),
    }


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What the plan does not decide: it costs the same at every budget and gains nothing."""

    counts: dict[str, int]  # lines, by model
    cost: int

    @classmethod
    def of(cls, table: Scored, settings: Settings) -> _Pinned:
        numbers = table.model[table.pinned]  # from 1; 0: a model that is no longer configured
        served = table.answers[table.pinned]
        counts = {key: int(served[numbers == n].sum()) for n, key in enumerate(settings.models, start=1)}
        return cls({key: n for key, n in counts.items() if n}, int(table.cost[table.pinned, 0].sum()))


def _round_up(nano: int) -> int:
    """To a millionth of a dollar: as amounts are shown, so that whoever takes one from a table has enough."""
    return -(-nano // 1000) * 1000


def _enough(rungs: list[dict[str, Any]], margin: int) -> list[dict[str, Any]]:
    """Of rungs of one plan the first, with a budget that covers its cost: a mode that no budget moves has one rung."""
    distinct = {(rung["cost_nano"], rung["gain"]): rung for rung in reversed(rungs)}
    return [
        rung | {"budget_nano": max(rung["budget_nano"], _round_up(rung["cost_nano"] + margin))}
        for rung in reversed(distinct.values())
    ]


def _shown(rung: Rung, candidates: Sequence[str], pinned: _Pinned, total: int, aside: int) -> dict[str, Any]:
    """A rung of what the plan decides, put back among what is pinned. Shares and gains are of all requests; the shadow
    price is null where nothing is upgraded."""
    decided = 1 - sum(pinned.counts.values()) / max(total, 1)
    share = {model: decided * part for model, part in zip(candidates, rung.share, strict=True)}
    for model, count in pinned.counts.items():
        share[model] = share.get(model, 0.0) + count / total
    return {
        "budget_nano": rung.budget + aside,
        "cost_nano": rung.cost + pinned.cost,
        "gain": decided * rung.gain,
        "low": decided * rung.low,
        "high": decided * rung.high,
        "gap": decided * rung.gap,
        "recovered": rung.recovered,
        "share": share,
        "shadow_price": rung.shadow_price if math.isfinite(rung.shadow_price) else None,
        "cut_line": rung.cut_line,
    }


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
        **_preview(batch.preview, limit),
    }, not pending


_SCORED = text("select sum(last_line - first_line + 1) from score_ranges where batch_id = :id and done_at is not null")


def _status(batch: Batch) -> str:
    """`scoring` and `ready` of a plan that waits; else how far the batch is."""
    if batch.state is not BatchState.IN_PROGRESS:
        return batch.state
    return {"pending": "scoring"}.get(state := plan_state(batch) or "", state)


def _preview(preview: dict[str, Any], limit_nano: int) -> dict[str, Any]:
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
