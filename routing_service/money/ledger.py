"""The ledger: reserve, then settle or release, once.

Every function works inside the caller's transaction. Budgets are locked in id order, whoever asks. The database has
the last word: `reserved + settled <= limit` is a check on the row, entries are unique by (attempt, budget), and a
trigger keeps them from being changed. All amounts are nano-dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Unnest
from routing_service.models import EntryBasis
from routing_service.money.budgets import misplaced


@dataclass(slots=True)
class Balance:
    """A locked budget. `headroom` is what may still be reserved."""

    budget_id: int
    limit: int
    reserved: int
    settled: int

    @property
    def headroom(self) -> int:
        return self.limit - self.reserved - self.settled


@dataclass(frozen=True, slots=True)
class Closing:
    """What became of an attempt: the cost, and how it is known. A release costs nothing; in-full closings cost None."""

    attempt_id: int
    basis: EntryBasis
    cost_nano: int | None  # None: whatever was reserved


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored balance that its entries do not add up to."""

    budget_id: int
    what: str
    stored: int
    recomputed: int


def lock_budgets(session: Session, budget_ids: Sequence[int]) -> list[Balance]:
    """Lock budgets in id order until the transaction ends, and read them."""
    rows = session.execute(
        text(
            "select id, limit_nano, reserved_nano, settled_nano from budgets where id = any(:ids)"
            " order by id for no key update"
        ),
        {"ids": list(budget_ids)},
    )
    return [Balance(*row) for row in rows]


_RESERVATIONS = Unnest("reservation", {"attempt_id": "bigint", "amount_nano": "bigint"})
_DRAWN_ON = Unnest("drawn_on", {"budget_id": "bigint"})
_RESERVE = text(f"""
insert into ledger_entries (attempt_id, budget_id, kind, basis, amount_nano)
select reservation.attempt_id, drawn_on.budget_id, 'reserve', 'bound', reservation.amount_nano
from {_RESERVATIONS}, {_DRAWN_ON}
""")  # noqa: S608


def reserve(session: Session, budget_ids: Sequence[int], amounts: Sequence[tuple[int, int]]) -> None:
    """Append a reservation of (attempt id, nano-dollars) on each budget. The budgets are locked by the caller."""
    if not amounts:
        return
    reservations = _RESERVATIONS.parameters(
        attempt_id=[attempt_id for attempt_id, _ in amounts], amount_nano=[amount for _, amount in amounts]
    )
    session.execute(_RESERVE, reservations | _DRAWN_ON.parameters(budget_id=budget_ids))
    session.execute(
        text("update budgets set reserved_nano = reserved_nano + :total where id = any(:ids)"),
        {"total": sum(amount for _, amount in amounts), "ids": list(budget_ids)},
    )


def close(session: Session, closings: Sequence[Closing]) -> dict[int, int]:
    """Settle or release attempts; those closed before are left as they are.

    Returns the cost of each attempt closed now. A cost above the reservation is settled as far as the limit allows;
    the excess is recorded as overrun on the entry and the budget.
    """
    wanted = {closing.attempt_id: closing for closing in closings}
    balances = {b.budget_id: b for b in lock_budgets(session, _budgets_of(session, list(wanted)))}
    entries: list[_Entry] = []
    costs: dict[int, int] = {}
    for attempt_id, budget_id, reserved in _open_reservations(session, list(wanted)):
        entry = _close_one(wanted[attempt_id], balances[budget_id], reserved)
        entries.append(entry)
        costs[attempt_id] = entry.amount + entry.overrun if entry.kind == "settle" else 0
    _append(session, entries)
    _apply(session, entries)
    return costs


@dataclass(frozen=True, slots=True)
class _Entry:
    attempt_id: int
    budget_id: int
    kind: str
    basis: str
    amount: int
    overrun: int
    reserved: int


def _close_one(closing: Closing, balance: Balance, reserved: int) -> _Entry:
    balance.reserved -= reserved
    if closing.basis is EntryBasis.UNBILLED:
        return _Entry(closing.attempt_id, balance.budget_id, "release", closing.basis, reserved, 0, reserved)
    cost = reserved if closing.cost_nano is None else closing.cost_nano
    settled = min(cost, balance.headroom)
    balance.settled += settled
    return _Entry(closing.attempt_id, balance.budget_id, "settle", closing.basis, settled, cost - settled, reserved)


def _budgets_of(session: Session, attempt_ids: list[int]) -> list[int]:
    query = text("select distinct budget_id from ledger_entries where attempt_id = any(:ids) and kind = 'reserve'")
    return list(session.scalars(query, {"ids": attempt_ids}))


def _open_reservations(session: Session, attempt_ids: list[int]) -> list[tuple[int, int, int]]:
    rows = session.execute(
        text(
            "select reserve.attempt_id, reserve.budget_id, reserve.amount_nano from ledger_entries reserve"
            " where reserve.attempt_id = any(:ids) and reserve.kind = 'reserve' and not exists (select"
            " from ledger_entries closing"
            " where closing.attempt_id = reserve.attempt_id and closing.budget_id = reserve.budget_id"
            " and closing.kind <> 'reserve')"
            " order by reserve.attempt_id, reserve.budget_id"
        ),
        {"ids": attempt_ids},
    )
    return [(row[0], row[1], row[2]) for row in rows]


_ENTRIES = Unnest(
    "entry",
    {
        "attempt_id": "bigint",
        "budget_id": "bigint",
        "kind": "entry_kind",
        "basis": "entry_basis",
        "amount_nano": "bigint",
        "overrun_nano": "bigint",
    },
)
_APPEND = text(f"insert into ledger_entries ({', '.join(_ENTRIES.columns)}) select entry.* from {_ENTRIES}")  # noqa: S608


def _append(session: Session, entries: Sequence[_Entry]) -> None:
    if not entries:
        return
    values = _ENTRIES.parameters(
        attempt_id=[entry.attempt_id for entry in entries],
        budget_id=[entry.budget_id for entry in entries],
        kind=[entry.kind for entry in entries],
        basis=[entry.basis for entry in entries],
        amount_nano=[entry.amount for entry in entries],
        overrun_nano=[entry.overrun for entry in entries],
    )
    session.execute(_APPEND, values)


def _apply(session: Session, entries: Sequence[_Entry]) -> None:
    """Move the balances. A limit that was lowered below what is used follows that down, and is never raised here."""
    changes: dict[int, list[int]] = {}
    for entry in entries:
        change = changes.setdefault(entry.budget_id, [0, 0, 0])
        change[0] += entry.reserved
        if entry.kind == "settle":
            change[1] += entry.amount
            change[2] += entry.overrun
    for budget_id, (reserved, settled, overrun) in sorted(changes.items()):
        session.execute(
            text(
                "update budgets set reserved_nano = reserved_nano - :reserved, settled_nano = settled_nano + :settled,"
                " overrun_nano = overrun_nano + :overrun, limit_nano = case when lowered_to_nano is null"
                " then limit_nano else least(limit_nano, greatest(lowered_to_nano,"
                " reserved_nano + settled_nano - :reserved + :settled)) end where id = :id"
            ),
            {"reserved": reserved, "settled": settled, "overrun": overrun, "id": budget_id},
        )


VERIFY = """
with entries as (
    select budget_id,
           sum(case kind when 'reserve' then amount_nano else 0 end) as reserved,
           sum(case kind when 'settle' then amount_nano else 0 end) as settled,
           sum(overrun_nano) as overrun
    from ledger_entries group by budget_id
), closed as (
    select reserve.budget_id, sum(reserve.amount_nano) as amount from ledger_entries reserve
    join ledger_entries closing on closing.attempt_id = reserve.attempt_id
    and closing.budget_id = reserve.budget_id and closing.kind <> 'reserve'
    where reserve.kind = 'reserve' group by reserve.budget_id
), attempted as (
    select reserve.budget_id, sum(attempt.cost_nano) as cost from ledger_entries reserve join attempts attempt
    on attempt.id = reserve.attempt_id
    where reserve.kind = 'reserve' group by reserve.budget_id
), requested as (
    select batch_budget.id as budget_id, sum(request.cost_nano) as cost from budgets batch_budget
    join requests request on request.batch_id = batch_budget.batch_id
    group by batch_budget.id
)
select budget.id, sums.what, sums.stored, sums.recomputed from budgets budget
left join entries entry on entry.budget_id = budget.id left join closed closing on closing.budget_id = budget.id
left join attempted attempted_sum on attempted_sum.budget_id = budget.id left join requested request
    on request.budget_id = budget.id
cross join lateral (values
    ('reserved', budget.reserved_nano, coalesce(entry.reserved, 0) - coalesce(closing.amount, 0)),
    ('settled', budget.settled_nano, coalesce(entry.settled, 0)),
    ('overrun', budget.overrun_nano, coalesce(entry.overrun, 0)),
    ('settled + overrun against attempts', budget.settled_nano + budget.overrun_nano, coalesce(attempted_sum.cost, 0)),
    ('settled + overrun against requests', budget.settled_nano + budget.overrun_nano,
        case budget.kind when 'batch' then coalesce(request.cost, 0) else budget.settled_nano + budget.overrun_nano end)
) as sums(what, stored, recomputed)
where sums.stored <> sums.recomputed order by budget.id, sums.what
"""


def verify(session: Session) -> list[Difference]:
    """Recompute every balance from the entries, and the entries from attempts and requests; return what differs.

    Also names attempts whose reservation is missing or that were closed without an entry, and attempts that stand on a
    budget of another key or time, or are missing on one of their own key's.
    """
    differences = [Difference(int(b), w, int(s), int(r)) for b, w, s, r in session.execute(text(VERIFY))]
    orphans = session.execute(
        text(
            "select attempt.id, attempt.reserved_nano from attempts attempt where not exists"
            " (select from ledger_entries entry where entry.attempt_id = attempt.id and entry.kind = 'reserve')"
            " union all select attempt.id, attempt.reserved_nano from attempts attempt"
            " where attempt.state <> 'started' and exists"
            " (select from ledger_entries reserve where reserve.attempt_id = attempt.id"
            " and reserve.kind = 'reserve' and not exists"
            " (select from ledger_entries closing where closing.attempt_id = reserve.attempt_id"
            " and closing.budget_id = reserve.budget_id"
            " and closing.kind <> 'reserve'))"
        )
    )
    differences += [Difference(b, f"attempt {a} on its key's budget", s, r) for b, a, s, r in misplaced(session)]
    return differences + [Difference(0, f"attempt {row[0]} without its entries", int(row[1]), 0) for row in orphans]
