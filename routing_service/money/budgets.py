"""Budgets of API keys: what a key's batches may spend in a UTC day, a UTC month, or in all.

A limit is what the operator sets. The budget of a period is a row made of it when a batch of the key first draws on it
in that period; an entry stays with the period it was reserved in. A limit counts what is reserved from the moment it
is set. Every function works inside the caller's transaction; amounts are nano-dollars.

Whoever sets the first limit of a period or removes one keeps the key's claims out meanwhile, so that `ledger verify`
can say of every attempt on which budgets it belongs. Locks, in this order: key, batches (by id), limits, budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.errors import InvalidRequestError, NotFoundError
from routing_service.models import ApiKey, Period

MAX_NANO = 10**18  # a billion dollars: two of them still fit a bigint

# A row a limit, with the budget of its period now, or none if nothing has drawn on it yet. The newest budget that is
# open is looked at, not one of a computed start: that takes one step in the index, however many periods there were.
STANDING = """
select key_limit.api_key_id, key_limit.period, key_limit.limit_nano as each_nano, key_limit.set_at,
       started.period_start, reset.resets_at, budget.id as budget_id,
       coalesce(budget.limit_nano, key_limit.limit_nano) as limit_nano, budget.lowered_to_nano,
       coalesce(budget.reserved_nano, 0) as reserved_nano, coalesce(budget.settled_nano, 0) as settled_nano,
       coalesce(budget.overrun_nano, 0) as overrun_nano,
       coalesce(budget.limit_nano - budget.reserved_nano - budget.settled_nano, key_limit.limit_nano) as left_nano
from key_limits key_limit
cross join lateral (
    select case key_limit.period when 'all' then null else
        date_trunc(key_limit.period::text, statement_timestamp(), 'UTC') end
) started(period_start)
cross join lateral (
    select (started.period_start at time zone 'UTC'
            + make_interval(days => (key_limit.period = 'day')::int,
                            months => (key_limit.period = 'month')::int)) at time zone 'UTC'
) reset(resets_at)
left join lateral (
    select * from budgets budget where budget.kind = 'key' and budget.api_key_id = key_limit.api_key_id
    and budget.period = key_limit.period
    and budget.closed_at is null order by budget.period_start desc limit 1
) budget on budget.resets_at is null or budget.resets_at > statement_timestamp()
"""


@dataclass(frozen=True, slots=True)
class KeyBudget:
    """A key's limit and how its present period stands.

    `limit_nano` is the period's, top-ups included; `each_nano` is what the next one begins with. `resets_at` is None
    where a period never ends. `lowered_to_nano`: the limit was set below what is used; it follows that down to here.
    """

    key_id: str
    key_name: str
    period: Period
    each_nano: int
    limit_nano: int
    reserved_nano: int
    settled_nano: int
    overrun_nano: int
    left_nano: int
    lowered_to_nano: int | None
    resets_at: datetime | None


def standing(session: Session, key_id: str | None = None) -> list[KeyBudget]:
    """How the limits of a key stand, or of all keys."""
    rows = session.execute(
        text(
            "select api_key.id, api_key.name, standing.period, standing.each_nano,"  # noqa: S608
            " standing.limit_nano, standing.reserved_nano, standing.settled_nano,"
            " standing.overrun_nano, standing.left_nano, standing.lowered_to_nano, standing.resets_at"
            f" from ({STANDING}) standing"
            " join api_keys api_key on api_key.id = standing.api_key_id"
            " where cast(:key as text) is null or api_key.id = :key"
            " order by api_key.name, api_key.id, standing.period"
        ),
        {"key": key_id},
    )
    budgets = [KeyBudget(row[0], row[1], Period(row[2]), *row[3:]) for row in rows]
    return [replace(budget, resets_at=budget.resets_at and budget.resets_at.astimezone(UTC)) for budget in budgets]


def open_periods(session: Session, key_id: str) -> None:
    """Make the budgets of the key's present periods, as far as they are missing.

    Before any budget is locked, so that whoever waits here for another's row holds none that the other needs.
    """
    session.execute(
        text(
            "insert into budgets (kind, api_key_id, period, period_start, resets_at, opened_at, limit_nano)"  # noqa: S608
            " select 'key', standing.api_key_id, standing.period, standing.period_start, standing.resets_at,"
            " greatest(standing.period_start, standing.set_at),"
            f" key_limit.limit_nano from ({STANDING}) standing join key_limits key_limit using (api_key_id, period)"
            " where standing.api_key_id = :key and standing.budget_id is null"
            " order by standing.period for share of key_limit"
            " on conflict do nothing"
        ),
        {"key": key_id},
    )


def set_limit(session: Session, key_id: str, period: Period, limit_nano: int) -> KeyBudget:
    """Limit what the key's batches may spend in each such period, the present one too.

    Where more is used already, the present period's limit becomes what is used, and follows it down as calls in flight
    settle for less than is reserved. Raises NotFoundError, InvalidRequestError.
    """
    _check(limit_nano, "a limit")
    _lock_key(session, key_id)
    if not _is_limited(session, key_id, period):
        _keep_claims_out(session, key_id)
    session.execute(
        text(
            "insert into key_limits (api_key_id, period, limit_nano, set_at)"
            " values (:key, cast(:period as budget_period), :limit, clock_timestamp())"
            " on conflict (api_key_id, period) do update set limit_nano = excluded.limit_nano"
        ),
        {"key": key_id, "period": period, "limit": limit_nano},
    )
    return _limit_present(session, key_id, period, "cast(:amount as bigint)", limit_nano)


def top_up(session: Session, key_id: str, period: Period, add_nano: int) -> KeyBudget:
    """Raise the limit of the present period; the next begins with what is set. Raises NotFoundError."""
    _check(add_nano, "what is added")
    _lock_key(session, key_id)
    _expect_limit(session, key_id, period)
    budget = _limit_present(session, key_id, period, "coalesce(lowered_to_nano, limit_nano) + :amount", add_nano)
    _check(budget.limit_nano, "a limit")
    return budget


def remove_limit(session: Session, key_id: str, period: Period) -> None:
    """Let the key's batches spend without this limit from now on. One set later begins with nothing used."""
    _lock_key(session, key_id)
    _expect_limit(session, key_id, period)
    _keep_claims_out(session, key_id)
    which = {"key": key_id, "period": period}
    session.execute(
        text("delete from key_limits where api_key_id = :key and period = cast(:period as budget_period)"), which
    )
    session.execute(
        text(
            "update budgets set closed_at = clock_timestamp() where kind = 'key' and api_key_id = :key"
            " and period = cast(:period as budget_period) and closed_at is null"
            " and (resets_at is null or resets_at > clock_timestamp())"
        ),
        which,
    )


# Of a key's budget: every attempt of the key's batches in its time belongs on it, and no other. A claim writes
# `started_at` as the moment that chose its budgets.
_MISPLACED = """
with spans as (
    select id as budget_id, api_key_id, opened_at, coalesce(least(resets_at, closed_at), 'infinity') as until
    from budgets where kind = 'key'
), expected as (
    select standing.budget_id, attempt.id as attempt_id, attempt.reserved_nano from spans standing
    join batches batch on batch.api_key_id = standing.api_key_id
    join attempts attempt on attempt.batch_id = batch.id and attempt.started_at >= standing.opened_at
    and attempt.started_at < standing.until
), entered as (
    select entry.budget_id, entry.attempt_id, entry.amount_nano from spans standing
    join ledger_entries entry on entry.budget_id = standing.budget_id and entry.kind = 'reserve'
)
select budget_id, attempt_id, coalesce(entry.amount_nano, 0) as stored,
       coalesce(expected_entry.reserved_nano, 0) as recomputed
from expected expected_entry full join entered entry using (budget_id, attempt_id)
where entry.amount_nano is distinct from expected_entry.reserved_nano order by budget_id, attempt_id
"""


def misplaced(session: Session) -> list[tuple[int, int, int, int]]:
    """Where entries and attempts disagree: budget, attempt, what is reserved by its entry, and what should be."""
    return [(int(b), int(a), int(s), int(r)) for b, a, s, r in session.execute(text(_MISPLACED))]


def _check(nano: int, what: str) -> None:
    if not 0 <= nano <= MAX_NANO:
        raise InvalidRequestError(f"{what} is at least 0 and at most a billion dollars", param="limit")


def _lock_key(session: Session, key_id: str) -> None:
    """One change of a key's limits at a time. Batches and files of the key may be made meanwhile."""
    if session.get(ApiKey, key_id, with_for_update={"key_share": True}) is None:
        raise NotFoundError(f"there is no key {key_id!r}", param="id")


def _is_limited(session: Session, key_id: str, period: Period) -> bool:
    query = text(
        "select exists (select from key_limits where api_key_id = :key and period = cast(:period as budget_period))"
    )
    return bool(session.scalar(query, {"key": key_id, "period": period}))


def _expect_limit(session: Session, key_id: str, period: Period) -> None:
    if not _is_limited(session, key_id, period):
        raise NotFoundError(f"key {key_id!r} has no limit for {_IN[period]}", param="per")


_IN = {Period.DAY: "a day", Period.MONTH: "a month", Period.ALL: "all its time"}


def _keep_claims_out(session: Session, key_id: str) -> None:
    session.execute(
        text(
            "select id from batches where api_key_id = :key and state in ('validating', 'in_progress')"
            " order by id for no key update"
        ),
        {"key": key_id},
    )


def _limit_present(session: Session, key_id: str, period: Period, limit: str, amount: int) -> KeyBudget:
    """Give the present period's budget a limit (SQL over its row), never below what is used."""
    open_periods(session, key_id)
    session.execute(
        text(
            f"update budgets set limit_nano = greatest({limit}, reserved_nano + settled_nano), lowered_to_nano ="  # noqa: S608
            f" case when {limit} < reserved_nano + settled_nano then {limit} end where id ="
            f" (select standing.budget_id from ({STANDING}) standing where standing.api_key_id = :key"
            " and standing.period = cast(:period as budget_period))"
        ),
        {"key": key_id, "period": period, "amount": amount},
    )
    return next(budget for budget in standing(session, key_id) if budget.period is period)
