"""What a claim may draw on: the batch's own budget, and the budgets of its key where it has limits.

The batch's budget decides where its requests go. A key's budget only decides when: what does not fit waits, or the
batch stands still until there is room; it never sends a request to a cheaper model or ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.dispatch.claim_queries import StoredPlan
from routing_service.money.budgets import STANDING, open_periods
from routing_service.money.ledger import Balance, lock_budgets
from routing_service.money.pricing import format_usd

_DRAWN = text(f"""
select statement_timestamp() as at, id as budget_id, null as period, null as resets_at, null as each_nano
from budgets where batch_id = :batch
union all
select statement_timestamp(), standing.budget_id, standing.period::text, standing.resets_at, standing.each_nano
from ({STANDING}) standing where standing.api_key_id = :key
""")  # noqa: S608
# What batches of a higher priority are to find: what they are still expected to cost, and of their requests the
# dearest worst case, without which the last one could not be sent. At most what their own budgets have left.
_KEPT_FOR_OTHERS = text("""
select coalesce(sum(greatest(0, least(budgets.limit_nano - budgets.settled_nano,
       greatest(batches.floor_nano, coalesce(batches.expected_cost_nano, 0) - budgets.settled_nano)
       + batches.dearest_nano))), 0)::bigint
from batches join budgets on budgets.batch_id = batches.id
where batches.api_key_id = :key and batches.priority > :priority and batches.state = 'in_progress'
  and batches.planned_at is not null and batches.paused is null and batches.expires_at > now()
  and batches.succeeded + batches.failed < batches.total - batches.duplicates
""")


@dataclass(frozen=True, slots=True)
class Limited:
    """A key's locked budget. `resets_at` is None where the period never ends; the next one begins with `each_nano`."""

    balance: Balance
    period: str
    resets_at: datetime | None
    each_nano: int


class KeyFunds:
    """What is left for this batch on the budgets of its key, all of them locked. Without any, everything fits."""

    def __init__(self, budgets: list[Limited], kept_nano: int = 0) -> None:
        """`kept_nano`: what batches of the key with a higher priority are to find when they come."""
        self.budgets, self._kept_nano = budgets, kept_nano
        self.needed_nano: int | None = None  # the least of what did not fit while nothing was in flight
        self._spent: list[Limited] = []

    def draw(self, worst_nano: int) -> bool:
        """Take a worst case off each budget; False, and nothing taken, if it does not fit one of them."""
        short = [budget for budget in self.budgets if budget.balance.headroom < worst_nano]
        spent = [budget for budget in short if not budget.balance.reserved]
        if spent and (self.needed_nano is None or worst_nano < self.needed_nano):
            self.needed_nano, self._spent = worst_nano, spent
        if short or any(budget.balance.headroom - self._kept_nano < worst_nano for budget in self.budgets):
            return False
        for budget in self.budgets:
            budget.balance.reserved += worst_nano
        return True

    def why(self) -> str:
        """Why the batch stands still, and when it goes on. Only where something was needed."""
        last = max(self._spent, key=lambda budget: budget.resets_at or datetime.max.replace(tzinfo=UTC))
        of = {"day": " for the day", "month": " for the month"}.get(last.period, "")
        reason = (
            f"The API key's budget{of}, {format_usd(last.balance.limit)} USD, does not cover the worst case of the"
            f" next request, {format_usd(self.needed_nano or 0)} USD"
        )
        if last.resets_at is None or last.each_nano < (self.needed_nano or 0):
            return f"{reason}. The batch goes on when that budget is raised."
        opens = f"{last.resets_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return f"{reason}. The batch goes on when it opens again, at {opens}, or is raised."


@dataclass(frozen=True, slots=True)
class Funds:
    """The budgets of a claim, locked. `at` is the moment whose periods they are."""

    at: datetime
    own: Balance
    key: KeyFunds

    @property
    def budget_ids(self) -> list[int]:
        return [self.own.budget_id, *(budget.balance.budget_id for budget in self.key.budgets)]


def lock_funds(session: Session, plan: StoredPlan) -> Funds:
    """Lock what the batch may draw on, all in id order; budgets of periods that begin now are made before."""
    rows = _drawn(session, plan)
    while any(row.budget_id is None for row in rows):
        open_periods(session, plan.api_key_id)
        rows = _drawn(session, plan)
    balances = {b.budget_id: b for b in lock_budgets(session, [row.budget_id for row in rows])}
    own = next(balances[row.budget_id] for row in rows if row.period is None)
    limited = [Limited(balances[row.budget_id], row.period, row.resets_at, row.each_nano) for row in rows if row.period]
    kept = _kept_for_others(session, plan) if limited else 0
    return Funds(rows[0].at, own, KeyFunds(limited, kept))


def _drawn(session: Session, plan: StoredPlan) -> list[Row[Any]]:
    return list(session.execute(_DRAWN, {"batch": plan.batch_id, "key": plan.api_key_id}))


def _kept_for_others(session: Session, plan: StoredPlan) -> int:
    return int(session.scalar(_KEPT_FOR_OTHERS, {"key": plan.api_key_id, "priority": plan.priority}) or 0)
