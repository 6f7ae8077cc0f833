"""Admission: which of the rows that a claim looks at are taken, and to which model.

Decided row by row on balances that are locked. A row is taken by the model that the plan names, or by the cheapest one
where money or its own cap does not cover that; it stays for a later claim while a slot or money is awaited; or it ends
without a call: `unaffordable`, `unroutable` (pinned to a model that is no longer configured), `fallback_exhausted` (no
money is left to ask another model).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.dispatch.claim_queries import ROW_PLACES, Choice, StoredPlan
from routing_service.dispatch.funds import Funds
from routing_service.models import BatchPurpose, Reason, RequestState
from routing_service.money.pricing import PriceBook, input_bound, output_bound, worst_case_nano
from routing_service.settings import Settings

_FIXED = (Reason.PINNED, Reason.FALLBACK, Reason.EXPLORE)  # these go to no other model
_REASONS = {"share": Reason.SHARE, "threshold": Reason.THRESHOLD}


class Admission:
    """Decides row by row what is taken. `slots` and the balances shrink with what it takes."""

    def __init__(
        self,
        settings: Settings,
        prices: PriceBook,
        plan: StoredPlan,
        planned: dict[int, str],
        funds: Funds,
        slots: dict[str, int],
        quarantine_room: int,
    ) -> None:
        self.settings, self.prices, self.plan, self.slots = settings, prices, plan, slots
        self.planned = planned  # the plan's model, by line
        self.quarantine_room = quarantine_room  # for requests that were lost before
        self.headroom = funds.own.headroom
        self.floor = plan.floor_nano
        self.in_flight = funds.own.reserved > 0
        self.key = funds.key
        self.took_strong = False
        self.chosen: list[Choice] = []
        self.unaffordable: list[Row[Any]] = []
        self.unroutable: list[Row[Any]] = []
        self.fallback_exhausted: list[Row[Any]] = []
        self.cheap_is_full = slots.get(plan.cheapest, 0) <= 0  # its requests were not looked at
        self.pauses = False  # the batch: nothing of it fits its budget any more
        self.waiting = False  # something did not fit and waits for money in flight
        self.may_finish = False  # some requests ended, or the batch is to be paused

    def decide(self, row: Row[Any]) -> None:
        """Take the row, end it, or leave it for a later claim."""
        wanted, reason = self._wanted(row)
        if wanted not in self.settings.models:
            self._end(row, self.unroutable)
            return
        if self.slots.get(wanted, 0) <= 0 or (row.losses and not self.quarantine_room):
            return
        choice = self._choice(row, wanted, reason)
        if not _within_cap(choice) and reason not in _FIXED:
            choice = self._choice(row, self.plan.cheapest, Reason.BUDGET)
        if not _within_cap(choice):
            self._end(row, self.fallback_exhausted if reason is Reason.FALLBACK else self.unaffordable)
        elif self.slots.get(choice.model, 0) <= 0:
            return
        elif self._fits(choice):
            self._take(choice)
        elif self.in_flight or self.took_strong or self.plan.probes:
            self.waiting = True
        else:
            self._downgrade(choice)

    def _wanted(self, row: Row[Any]) -> tuple[str, Reason]:
        if row.pinned is not None:
            if row.fallback:
                return row.pinned, Reason.FALLBACK
            return row.pinned, Reason.EXPLORE if self.plan.purpose is BatchPurpose.EXPLORE else Reason.PINNED
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
        floor = 0 if choice.model == self.plan.cheapest else max(0, self.floor - choice.row.floor_nano)
        return choice.worst_nano + int(floor * self.plan.floor_factor) <= self.headroom

    def _take(self, choice: Choice) -> None:
        """Take what the batch's own budget covers, unless the key's does not: then it waits."""
        if not self.key.draw(choice.worst_nano):
            self.waiting = True
            return
        self.chosen.append(choice)
        self.headroom -= choice.worst_nano
        self.floor = max(0, self.floor - choice.row.floor_nano)
        self.slots[choice.model] -= 1
        self.quarantine_room -= choice.row.losses > 0
        self.took_strong = self.took_strong or choice.model != self.plan.cheapest

    def _downgrade(self, choice: Choice) -> None:
        """Take by the cheapest model what fits no other way. What does not fit there ends, or its batch pauses."""
        if choice.reason is Reason.FALLBACK:
            self._end(choice.row, self.fallback_exhausted)
            return
        if choice.reason not in _FIXED and choice.model != self.plan.cheapest:
            choice = self._choice(choice.row, self.plan.cheapest, Reason.BUDGET)
        if self.slots.get(choice.model, 0) <= 0:
            return
        if self._fits(choice):
            self._take(choice)
        elif self.chosen:
            self.waiting = True
        elif self.plan.stops:
            self._end(choice.row, self.unaffordable)
        elif self.cheap_is_full:
            self.waiting = True
        else:
            self.pauses = self.may_finish = True

    def _end(self, row: Row[Any], ended: list[Row[Any]]) -> None:
        ended.append(row)
        self.floor = max(0, self.floor - row.floor_nano)
        self.may_finish = True


def _within_cap(choice: Choice) -> bool:
    cap = choice.row.max_cost_nano
    return cap is None or choice.row.cost_nano + choice.worst_nano <= cap


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a request ends without a call."""

    state: RequestState
    reason: Reason
    code: str
    message: str


UNAFFORDABLE = Ending(
    RequestState.UNAFFORDABLE,
    Reason.BUDGET,
    "budget_exhausted",
    "The budget cannot cover this request's worst case.",
)
UNROUTABLE = Ending(
    RequestState.FAILED,
    Reason.PINNED,
    "model_removed",
    "The model that this request is pinned to is no longer configured.",
)


def mark_ended(session: Session, ending: Ending, rows: list[Row[Any]]) -> None:
    if not rows:
        return
    session.execute(
        _MARK_ENDED,
        {
            "state": ending.state,
            "reason": ending.reason,
            "code": ending.code,
            "message": ending.message,
            "places": [row.place for row in rows],
        },
    )


_MARK_ENDED = text(f"""
update requests set state = cast(:state as request_state), finished_at = now(), model = null,
       reason = cast(:reason as reason), error_code = :code, error_message = :message
where ctid = any({ROW_PLACES})
""")  # noqa: S608


def mark_fallback_exhausted(session: Session, batch_id: str, rows: list[Row[Any]]) -> None:
    """End requests with what became of their last attempt."""
    if rows:
        session.execute(_MARK_FALLBACK_EXHAUSTED, {"id": batch_id, "places": [row.place for row in rows]})


_MARK_FALLBACK_EXHAUSTED = text(f"""
update requests set state = 'failed', finished_at = now(), model = null, error_code = attempts.error_code,
       error_message = attempts.error_message
from attempts where attempts.batch_id = :id and attempts.batch_id = requests.batch_id
     and attempts.line = requests.line and attempts.number = requests.attempts and requests.ctid = any({ROW_PLACES})
""")  # noqa: S608
