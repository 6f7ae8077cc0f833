"""Claiming: a chunk of a batch's scored requests becomes attempts with money reserved, in one transaction.

Order: clear cases first. The strong end (highest gain per dollar) and the weak end (lowest) are taken from both sides
of the shadow price, so that what is left last is what lies nearest to it. Money decides: a request whose worst case
does not fit waits while money of its budget is in flight; only then is it downgraded, and only when the cheapest model
does not fit either is it unaffordable. That is the batch's own budget; what does not fit a budget of its API key waits.

`claim_queries` reads and writes, `answer_cache` answers what was answered before, `funds` locks the budgets, and
`admission` decides row by row.

Locks, always in this order: pump (share), batch, requests, budgets, circuits.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.batches.pauses import (
    pause_for_budget,
    pause_for_key_budget,
    pause_for_models,
    pause_for_refusals,
    pause_for_stops,
)
from routing_service.dispatch.admission import UNAFFORDABLE, UNROUTABLE, Admission, mark_ended, mark_fallback_exhausted
from routing_service.dispatch.answer_cache import reuse_answers
from routing_service.dispatch.claim_queries import (
    Choice,
    StoredPlan,
    candidates,
    hold_lease,
    insert_attempts,
    insert_decisions,
    lock_plan,
    mark_dispatching,
    planned_models,
)
from routing_service.dispatch.funds import Funds, lock_funds
from routing_service.dispatch.quarantine import QuarantineLimits
from routing_service.dispatch.settle import Result
from routing_service.money import ledger
from routing_service.money.pricing import Price, PriceBook
from routing_service.plans.probing import Probing, end_probing
from routing_service.settings import Settings
from routing_service.upstream.circuit_breaker import Circuits, stopped_models
from routing_service.upstream.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Ticket:
    """One reserved attempt, committed and ready to be sent."""

    batch_id: str
    line: int
    attempt_id: int
    model: str
    body: str
    price: Price
    reserved_nano: int
    losses: int  # how often its worker died before

    @property
    def call_id(self) -> str:
        """What the upstream is told that this call is called."""
        return f"routebatch-attempt-{self.attempt_id}"

    def result(self, outcome: Outcome) -> Result:
        return Result(self.batch_id, self.line, self.attempt_id, self.price, outcome)


@dataclass(slots=True)
class Claim:
    """What a claim brought."""

    tickets: list[Ticket] = field(default_factory=list)
    waiting: bool = False  # something did not fit and waits for money in flight
    answered: int = 0  # without a call, by earlier answers
    may_finish: bool = False  # some requests ended without a call, or the batch was paused


def claim(
    session: Session,
    settings: Settings,
    prices: PriceBook,
    pump_id: int,
    batch_id: str,
    slots: Mapping[str, int],
    quarantine: QuarantineLimits | None = None,
) -> Claim:
    """Claim at most one chunk of `batch_id` for the free `slots` by model.

    `quarantine`: None for a pump that has no quarantined request in flight. Pauses the batch if a model of its plan is
    no longer configured, or what is left of it is for models that refuse us or are stopped. Raises LeaseLostError if
    the pump's lease has run out.
    """
    hold_lease(session, pump_id)
    plan = lock_plan(session, batch_id)
    result = Claim()
    if plan is None or pause_for_models(session, batch_id, plan.candidates, settings):
        return result
    circuits = Circuits.of(session, settings.models)
    stopped = stopped_models(session, settings)
    slots = circuits.limit(dict(slots) | dict.fromkeys(stopped, 0))
    probing = Probing.of(session, plan.batch_id, plan.candidates, plan.probes) if plan.probes else None
    open_slots = probing.within(slots) if probing else slots
    quarantine = quarantine or QuarantineLimits.beside(0)
    rows = candidates(session, plan, settings.dispatch.claim_chunk, open_slots, circuits, stopped, quarantine)
    if rows:
        plan, rows, result.answered, result.may_finish = reuse_answers(session, settings, prices, plan, rows)
    if rows:
        _admit(session, settings, prices, pump_id, plan, rows, open_slots, quarantine.room, result)
    barred = circuits.blocked | stopped
    if result.tickets:
        circuits.schedule_trials(session, {ticket.model for ticket in result.tickets}, random.Random())  # noqa: S311
    elif result.answered:
        pass
    elif probing:  # the others of the batch are not looked at before that ends
        if probing.in_vain(slots, barred, cut=plan.is_corrected):
            end_probing(session, plan.batch_id)
    elif not result.waiting and all(free for model, free in slots.items() if model not in barred):
        pause_for_refusals(session, plan.batch_id, circuits)
        if not circuits.open:
            pause_for_stops(session, plan.batch_id, stopped)
    return result


def _admit(
    session: Session,
    settings: Settings,
    prices: PriceBook,
    pump_id: int,
    plan: StoredPlan,
    rows: list[Row[Any]],
    slots: dict[str, int],
    quarantine_room: int,
    result: Claim,
) -> None:
    """Decide on the rows and write what was decided to `result` and to the database."""
    funds = lock_funds(session, plan)
    planned = planned_models(rows, plan, settings, prices)
    admission = Admission(settings, prices, plan, planned, funds, slots, quarantine_room)
    for row in rows:
        admission.decide(row)
    result.tickets = _write(session, pump_id, plan, admission, funds)
    result.waiting = admission.waiting
    result.may_finish = result.may_finish or admission.may_finish


def _write(session: Session, pump_id: int, plan: StoredPlan, admission: Admission, funds: Funds) -> list[Ticket]:
    tickets: list[Ticket] = []
    chosen = admission.chosen
    if chosen:
        ids = insert_attempts(session, admission.settings, pump_id, plan, chosen, funds.at)
        insert_decisions(session, plan, chosen)
        mark_dispatching(session, pump_id, chosen)
        amounts = [(attempt_id, choice.worst_nano) for attempt_id, choice in zip(ids, chosen, strict=True)]
        ledger.reserve(session, funds.budget_ids, amounts)
        tickets = [_ticket(plan.batch_id, *pair) for pair in zip(ids, chosen, strict=True)]
    mark_ended(session, UNAFFORDABLE, admission.unaffordable)
    mark_ended(session, UNROUTABLE, admission.unroutable)
    mark_fallback_exhausted(session, plan.batch_id, admission.fallback_exhausted)
    if admission.pauses and not chosen:
        pause_for_budget(session, plan.batch_id)
    elif admission.key.needed_nano is not None and not chosen and not admission.cheap_is_full:
        pause_for_key_budget(session, plan.batch_id, admission.key.why(), admission.key.needed_nano)
    session.execute(
        text(
            "update batches set floor_nano = :floor, failed = failed + :failed,"
            " dearest_nano = greatest(dearest_nano, :dearest) where id = :id"
        ),
        {
            "floor": admission.floor,
            "failed": len(admission.unaffordable) + len(admission.unroutable) + len(admission.fallback_exhausted),
            "dearest": max((choice.worst_nano for choice in chosen), default=0),
            "id": plan.batch_id,
        },
    )
    return tickets


def _ticket(batch_id: str, attempt_id: int, choice: Choice) -> Ticket:
    row = choice.row
    return Ticket(
        batch_id=batch_id,
        line=row.line,
        attempt_id=attempt_id,
        model=choice.model,
        body=row.body,
        price=choice.price,
        reserved_nano=choice.worst_nano,
        losses=row.losses,
    )
