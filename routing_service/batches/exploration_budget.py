"""What a batch that explores sets aside: a part of its budget, for asking a sample of its lines of the other model too.

That part is taken off the batch's own limit when it is created, so both together never spend more than was asked for.
What a client sees of a budget is the whole; what a plan spends is the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from routing_service.models import Batch, BatchPurpose, Budget
from routing_service.money.pricing import format_usd
from routing_service.settings import Settings


def explored_share(options: Mapping[str, Any], candidates: Sequence[str]) -> float:
    """The share of its lines that a batch asks of two models; 0 where it does not explore, or has no other model."""
    return float(options.get("explore_share") or 0) if len(candidates) > 1 else 0.0


def set_aside(whole_nano: int, options: Mapping[str, Any], candidates: Sequence[str], settings: Settings) -> int:
    """What of a budget is for exploration."""
    return math.floor(whole_nano * _part(options, candidates, settings))


def whole_budget(own_nano: int, options: Mapping[str, Any], candidates: Sequence[str], settings: Settings) -> int:
    """The least budget that leaves so much when exploration's part is taken off."""
    return math.ceil(own_nano / (1 - _part(options, candidates, settings)))


def _part(options: Mapping[str, Any], candidates: Sequence[str], settings: Settings) -> Fraction:
    explores = explored_share(options, candidates) > 0
    return Fraction(str(settings.learning.explore_budget_share)) if explores else Fraction(0)


@dataclass(frozen=True, slots=True)
class Exploration:
    """What became of a batch's exploration: its budget, and how many lines the other model has answered."""

    budget: Budget
    pairs: int


def explorations(session: Session, ids: Sequence[str]) -> dict[str, Exploration]:
    """By batch, where there is one."""
    query = (
        select(Batch.parent_id, Batch.succeeded, Budget)
        .join(Budget, Budget.batch_id == Batch.id)
        .where(Batch.parent_id.in_(ids), Batch.purpose == BatchPurpose.EXPLORE)
    )
    return {parent: Exploration(budget, pairs) for parent, pairs, budget in session.execute(query) if parent}


def money(batch: Batch, budget: Budget, exploration: Exploration | None) -> dict[str, str | None]:
    """What a client is told of its money: of its batch and what explores it, together."""
    both = [budget, *([exploration.budget] if exploration else [])]
    whole = budget.limit_nano + batch.explore_nano
    return {
        "budget_usd": None if batch.is_preview and not whole else format_usd(whole),
        "settled_usd": format_usd(sum(of.settled_nano for of in both)),
        "reserved_usd": format_usd(sum(of.reserved_nano for of in both)),
        "overrun_usd": format_usd(sum(of.overrun_nano for of in both)),
    }


def described(batch: Batch, exploration: Exploration | None) -> dict[str, Any]:
    """What a client is told of an exploration; nothing where there is none."""
    share = explored_share(batch.options, batch.candidates)
    if not share:
        return {}
    exploration_object = {
        "share": share,
        "budget_usd": format_usd(batch.explore_nano),
        "settled_usd": format_usd(exploration.budget.settled_nano if exploration else 0),
        "pairs": exploration.pairs if exploration else 0,
    }
    return {"exploration": exploration_object}
