"""The money: budgets, the attempts that spend them, and the ledger between the two. All amounts in nano-dollars."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import (
    AttemptState,
    Base,
    BudgetKind,
    EntryBasis,
    EntryKind,
    Id,
    Nano,
    Now,
    Period,
    pg_enum,
)

PERIOD = pg_enum(Period, "budget_period")


class KeyLimit(Base):
    """What an API key's batches may spend in each period. A period's budget is made of it on first use."""

    __tablename__ = "key_limits"
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    period: Mapped[Period] = mapped_column(PERIOD, primary_key=True)
    limit_nano: Mapped[Nano]
    set_at: Mapped[datetime]  # first: what was reserved before does not count
    __table_args__ = (CheckConstraint("limit_nano >= 0", name="sign"),)


class Budget(Base):
    """A limit, and what of it is reserved and settled. The check is the ceiling: no code can overspend it.

    A key's budget counts what its batches reserve from `opened_at` until the period ends, or the limit is removed.
    """

    __tablename__ = "budgets"
    id: Mapped[Id]
    kind: Mapped[BudgetKind] = mapped_column(pg_enum(BudgetKind, "budget_kind"))
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"), unique=True)
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    period: Mapped[Period | None] = mapped_column(PERIOD)
    period_start: Mapped[datetime | None]
    resets_at: Mapped[datetime | None]  # the period's end
    opened_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
    limit_nano: Mapped[Nano]
    lowered_to_nano: Mapped[int | None] = mapped_column(BigInteger)  # the limit follows what is used down to this
    reserved_nano: Mapped[Nano] = mapped_column(server_default="0")
    settled_nano: Mapped[Nano] = mapped_column(server_default="0")
    overrun_nano: Mapped[Nano] = mapped_column(server_default="0")
    created_at: Mapped[Now]
    __table_args__ = (
        CheckConstraint("reserved_nano >= 0 and settled_nano >= 0 and overrun_nano >= 0", name="signs"),
        CheckConstraint("reserved_nano + settled_nano <= limit_nano", name="ceiling"),
        CheckConstraint(
            "case kind when 'batch' then batch_id is not null and api_key_id is null"
            " else batch_id is null and api_key_id is not null end",
            name="owner",
        ),
        CheckConstraint(
            "(kind = 'key') = (period is not null) and (kind = 'key') = (opened_at is not null)"
            " and (coalesce(period, 'all') = 'all') = (period_start is null)"
            " and (period_start is null) = (resets_at is null) and (kind = 'key' or closed_at is null)",
            name="period",
        ),
        Index(
            "uq_budgets_key_period",
            "api_key_id",
            "period",
            "period_start",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("kind = 'key' and closed_at is null"),
        ),
    )


class TopUp(Base):
    """Money added to the budget of a batch that had not ended. By its row a request that is sent again is known."""

    __tablename__ = "top_ups"
    id: Mapped[Id]
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"))
    idempotency_key: Mapped[str | None]
    amount_nano: Mapped[Nano]
    created_at: Mapped[Now]
    __table_args__ = (
        CheckConstraint("amount_nano > 0", name="amount"),
        Index("uq_top_ups_idempotency", "batch_id", "idempotency_key", unique=True),
    )


class Attempt(Base):
    """One upstream call. Committed before the call is sent; closed once, with what is known of it."""

    __tablename__ = "attempts"
    id: Mapped[Id]
    batch_id: Mapped[str | None]
    line: Mapped[int | None]
    number: Mapped[int] = mapped_column(SmallInteger)
    pump_id: Mapped[int | None] = mapped_column(ForeignKey("pumps.id"))
    model: Mapped[str]  # the configured name
    upstream_model: Mapped[str]
    input_price: Mapped[int] = mapped_column(BigInteger)  # nano-dollars a million tokens, in force at the time
    cached_input_price: Mapped[int] = mapped_column(BigInteger)
    output_price: Mapped[int] = mapped_column(BigInteger)
    reserved_nano: Mapped[Nano]
    bounds: Mapped[str] = mapped_column(server_default="")  # what the reservation rests on, see ModelSettings.bounds
    state: Mapped[AttemptState] = mapped_column(pg_enum(AttemptState, "attempt_state"), server_default="started")
    started_at: Mapped[Now]
    ended_at: Mapped[datetime | None]
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    input_tokens: Mapped[int | None]
    cached_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    reasoning_tokens: Mapped[int | None]
    cost_nano: Mapped[Nano] = mapped_column(server_default="0")  # settled on each of its budgets, overrun included
    __table_args__ = (
        ForeignKeyConstraint(["batch_id", "line"], ["requests.batch_id", "requests.line"]),
        CheckConstraint("(state = 'started') = (ended_at is null)", name="ended"),
        CheckConstraint("reserved_nano >= 0 and cost_nano >= 0", name="signs"),
        CheckConstraint("state <> 'refused' or cost_nano = 0", name="refused_is_free"),
        CheckConstraint("state <> 'started' or cost_nano = 0", name="started_is_free"),
        Index("uq_attempts_number", "batch_id", "line", "number", unique=True),
        Index("ix_attempts_started", "pump_id", postgresql_where="state = 'started'"),
        Index("ix_attempts_overrun", "model", "bounds", postgresql_where="cost_nano > reserved_nano"),
        Index("ix_attempts_day", "started_at", postgresql_using="brin"),
    )


class LedgerEntry(Base):
    """An immutable row: a reservation, then its one settlement or release. A trigger refuses updates and deletes."""

    __tablename__ = "ledger_entries"
    id: Mapped[Id]
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"))
    budget_id: Mapped[int] = mapped_column(ForeignKey("budgets.id"))
    kind: Mapped[EntryKind] = mapped_column(pg_enum(EntryKind, "entry_kind"))
    basis: Mapped[EntryBasis] = mapped_column(pg_enum(EntryBasis, "entry_basis"))
    amount_nano: Mapped[Nano]  # reserved, settled, or given back
    overrun_nano: Mapped[Nano] = mapped_column(server_default="0")  # billed above what the limit allowed
    created_at: Mapped[Now]
    __table_args__ = (
        CheckConstraint("amount_nano >= 0 and overrun_nano >= 0", name="signs"),
        CheckConstraint("overrun_nano = 0 or kind = 'settle'", name="overrun"),
        Index(
            "uq_ledger_entries_reserve",
            "attempt_id",
            "budget_id",
            unique=True,
            postgresql_where=text("kind = 'reserve'"),
        ),
        Index(
            "uq_ledger_entries_close",
            "attempt_id",
            "budget_id",
            unique=True,
            postgresql_where=text("kind <> 'reserve'"),
        ),
    )
