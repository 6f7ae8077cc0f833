"""Claiming: a bite of a batch's scored requests becomes attempts with money reserved, in one transaction.

Order: clear cases first. The strong end (highest gain per dollar) and the weak end (lowest) are taken from both sides
of the shadow price, so that what is left last is what lies nearest to it. Money decides: a request whose worst case
does not fit waits while money of its budget is in flight; only then is it downgraded, and only when the cheapest model
does not fit either is it unaffordable. That is the batch's own budget; what does not fit a budget of its API key waits.

Locks, always in this order: pump (share), batch, requests, budgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service import ledger
from routing_service.batches.claim_rows import (
    Choice,
    Plan,
    candidates,
    hold_lease,
    insert_attempts,
    insert_decisions,
    lock_plan,
    mark_dispatching,
    stopped_models,
)
from routing_service.batches.endings import HOMELESS, UNAFFORDABLE, mark_ended
from routing_service.batches.funds import Funds, lock_funds
from routing_service.batches.pausing import pause_for_budget, pause_for_key_budget, pause_for_models
from routing_service.batches.planned_models import planned_models
from routing_service.batches.probing import Probing, end_probing
from routing_service.batches.reuse import reuse_answers
from routing_service.models import Reason
from routing_service.pricing import Price, PriceBook, input_bound, output_bound, worst_case_nano
from routing_service.settings import Settings


@dataclass(frozen=True, slots=True)
class Ticket:
    """One reserved attempt, committed and ready to be sent."""

    batch_id: str
    line: int
    attempt_id: int
    number: int
    model: str
    body: str
    price: Price
    reserved_nano: int

    @property
    def call_id(self) -> str:
        """What the upstream is told that this call is called."""
        return f"routebatch-attempt-{self.attempt_id}"


@dataclass(slots=True)
class Claim:
    """What one bite brought. `waiting`: something did not fit and waits for money in flight."""

    tickets: list[Ticket] = field(default_factory=list)
    waiting: bool = False
    answered: int = 0  # without a call, by earlier answers
    closed: bool = False  # some requests ended without a call, or the batch was paused


def claim(
    session: Session, settings: Settings, prices: PriceBook, pump_id: int, batch_id: str, slots: Mapping[str, int]
) -> Claim:
    """Claim at most a bite of `batch_id` for the free `slots` by model.

    Pauses the batch if a model of its plan is no longer configured. Raises LeaseLostError if the pump's lease has run
    out.
    """
    hold_lease(session, pump_id)
    plan = lock_plan(session, batch_id)
    result = Claim()
    if plan is None or pause_for_models(session, batch_id, plan.candidates, settings):
        return result
    slots = dict(slots) | dict.fromkeys(stopped_models(session, settings), 0)
    probing = Probing.of(session, plan.batch_id, plan.candidates, plan.probes) if plan.probes else None
    open_slots = probing.within(slots) if probing else slots
    rows = candidates(session, plan, settings.dispatch.bite, open_slots)
    if rows:
        plan, rows, result.answered, result.closed = reuse_answers(session, settings, prices, plan, rows)
    if rows:
        _take(session, settings, prices, pump_id, plan, rows, open_slots, result)
    if probing and not result.tickets and not result.answered and probing.in_vain(slots, cut=plan.is_corrected):
        end_probing(session, plan.batch_id)
    return result


def _take(
    session: Session,
    settings: Settings,
    prices: PriceBook,
    pump_id: int,
    plan: Plan,
    rows: list[Row[Any]],
    slots: dict[str, int],
    result: Claim,
) -> None:
    funds = lock_funds(session, plan)
    planned = planned_models(rows, plan, settings, prices)
    taking = _Taking(settings, prices, plan, planned, funds, slots, result)
    for row in rows:
        taking.consider(row)
    _write(session, pump_id, plan, taking, funds)


class _Taking:
    """Decides row by row what is taken, on balances that are locked."""

    def __init__(
        self,
        settings: Settings,
        prices: PriceBook,
        plan: Plan,
        planned: dict[int, str],
        funds: Funds,
        slots: dict[str, int],
        result: Claim,
    ) -> None:
        self.settings, self.prices, self.plan, self.slots, self.result = settings, prices, plan, slots, result
        self.planned = planned  # by line
        self.headroom = funds.own.headroom
        self.floor = plan.floor_nano
        self.in_flight = funds.own.reserved > 0
        self.key = funds.key
        self.took_strong = False
        self.chosen: list[Choice] = []
        self.unaffordable: list[Row[Any]] = []
        self.homeless: list[Row[Any]] = []  # pinned to a model that is no longer configured
        self.cheap_is_full = slots.get(plan.cheapest, 0) <= 0  # its requests were not looked at
        self.pause = False

    def consider(self, row: Row[Any]) -> None:
        wanted, reason = self._wanted(row)
        if wanted not in self.settings.models:
            self._end(row, self.homeless)
            return
        if self.slots.get(wanted, 0) <= 0:
            return
        choice = self._choice(row, wanted, reason)
        if not _within_cap(choice) and reason is not Reason.PINNED:
            choice = self._choice(row, self.plan.cheapest, Reason.BUDGET)
        if not _within_cap(choice):
            self._end(row, self.unaffordable)
        elif self.slots.get(choice.model, 0) <= 0:
            return
        elif self._fits(choice):
            self._take(choice)
        elif self.in_flight or self.took_strong or self.plan.probes:
            self.result.waiting = True
        else:
            self._downgrade(choice)

    def _wanted(self, row: Row[Any]) -> tuple[str, Reason]:
        if row.pinned is not None:
            return row.pinned, Reason.PINNED
        reason = Reason.UNSCORED if row.win_rate is None else _REASONS.get(self.plan.mode, Reason.PLAN)
        return self.planned[row.line], reason

    def _choice(self, row: Row[Any], model: str, reason: Reason) -> Choice:
        settings = self.settings.models[model]
        bound = input_bound(row.input_bytes, settings)
        price = self.prices.price(model, bound)
        worst = worst_case_nano(price, bound, output_bound(row.output_cap, row.choices, settings))
        return Choice(row, model, reason, price, worst)

    def _fits(self, choice: Choice) -> bool:
        """Whether the worst case can be reserved; a model above the cheapest must leave the floor of all others."""
        kept = 0 if choice.model == self.plan.cheapest else max(0, self.floor - choice.row.floor_nano)
        return choice.worst_nano + int(kept * self.plan.floor_factor) <= self.headroom

    def _take(self, choice: Choice) -> None:
        """Take what the batch's own budget covers, unless the key's does not: then it waits."""
        if not self.key.draw(choice.worst_nano):
            self.result.waiting = True
            return
        self.chosen.append(choice)
        self.headroom -= choice.worst_nano
        self.floor = max(0, self.floor - choice.row.floor_nano)
        self.slots[choice.model] -= 1
        self.took_strong = self.took_strong or choice.model != self.plan.cheapest

    def _downgrade(self, choice: Choice) -> None:
        if choice.reason is not Reason.PINNED and choice.model != self.plan.cheapest:
            choice = self._choice(choice.row, self.plan.cheapest, Reason.BUDGET)
        if self.slots.get(choice.model, 0) <= 0:
            return
        if self._fits(choice):
            self._take(choice)
        elif self.chosen:
            self.result.waiting = True
        elif self.plan.stops:
            self._end(choice.row, self.unaffordable)
        elif self.cheap_is_full:
            self.result.waiting = True
        else:
            self.pause = self.result.closed = True

    def _end(self, row: Row[Any], ended: list[Row[Any]]) -> None:
        ended.append(row)
        self.floor = max(0, self.floor - row.floor_nano)
        self.result.closed = True


def _within_cap(choice: Choice) -> bool:
    cap = choice.row.max_cost_nano
    return cap is None or choice.row.cost_nano + choice.worst_nano <= cap


_REASONS = {"share": Reason.SHARE, "threshold": Reason.THRESHOLD}


def _write(session: Session, pump_id: int, plan: Plan, taking: _Taking, funds: Funds) -> None:
    if taking.chosen:
        ids = insert_attempts(session, taking.settings, pump_id, plan, taking.chosen, funds.at)
        insert_decisions(session, plan, taking.chosen)
        mark_dispatching(session, pump_id, taking.chosen)
        ledger.reserve(session, funds.budget_ids, [(i, c.worst_nano) for i, c in zip(ids, taking.chosen, strict=True)])
        taking.result.tickets = [
            Ticket(plan.batch_id, c.row.line, i, c.row.attempts + 1, c.model, c.row.body, c.price, c.worst_nano)
            for i, c in zip(ids, taking.chosen, strict=True)
        ]
    mark_ended(session, UNAFFORDABLE, taking.unaffordable)
    mark_ended(session, HOMELESS, taking.homeless)
    if taking.pause and not taking.chosen:
        pause_for_budget(session, plan.batch_id)
    elif taking.key.needed_nano is not None and not taking.chosen and not taking.cheap_is_full:
        pause_for_key_budget(session, plan.batch_id, taking.key.why(), taking.key.needed_nano)
    session.execute(
        text(
            "update batches set floor_nano = :floor, failed = failed + :failed,"
            " dearest_nano = greatest(dearest_nano, :dearest) where id = :id"
        ),
        {
            "floor": taking.floor,
            "failed": len(taking.unaffordable) + len(taking.homeless),
            "dearest": max((choice.worst_nano for choice in taking.chosen), default=0),
            "id": plan.batch_id,
        },
    )
