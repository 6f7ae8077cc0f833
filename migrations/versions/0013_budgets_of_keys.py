"""Budgets of API keys: limits a day, a month and in all

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PERIOD = ENUM("day", "month", "all", name="budget_period", create_type=False)

VIEW = """
create view cost_by_key_period as
select b.api_key_id as key_id, k.name as key_name, b.period, b.period_start, b.resets_at, b.closed_at,
       round(b.limit_nano / 1e9, 9) as limit_usd, round(b.reserved_nano / 1e9, 9) as reserved_usd,
       round(b.settled_nano / 1e9, 9) as settled_usd, round(b.overrun_nano / 1e9, 9) as overrun_usd,
       round((b.limit_nano - b.reserved_nano - b.settled_nano) / 1e9, 9) as left_usd
from budgets b join api_keys k on k.id = b.api_key_id where b.kind = 'key';
comment on view cost_by_key_period is
    'A row a limit of an API key and period (UTC): what its batches may spend and have spent in it, in dollars.';
comment on column cost_by_key_period.settled_usd is
    'Of the calls that were reserved in the period, from the moment that the limit was set.';
comment on column cost_by_key_period.closed_at is 'When the limit was removed.';
"""


def upgrade() -> None:
    PERIOD.create(op.get_bind())
    op.create_table(
        "key_limits",
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("period", PERIOD, nullable=False),
        sa.Column("limit_nano", sa.BigInteger(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("limit_nano >= 0", name=op.f("ck_key_limits_sign")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_key_limits_api_key_id_api_keys")),
        sa.PrimaryKeyConstraint("api_key_id", "period", name=op.f("pk_key_limits")),
    )
    op.add_column("budgets", sa.Column("period", PERIOD, nullable=True))
    for column in ("resets_at", "opened_at", "closed_at"):
        op.add_column("budgets", sa.Column(column, sa.DateTime(timezone=True), nullable=True))
    op.add_column("budgets", sa.Column("lowered_to_nano", sa.BigInteger(), nullable=True))
    op.create_check_constraint(
        op.f("ck_budgets_period"),
        "budgets",
        "(kind = 'key') = (period is not null) and (kind = 'key') = (opened_at is not null)"
        " and (coalesce(period, 'all') = 'all') = (period_start is null)"
        " and (period_start is null) = (resets_at is null) and (kind = 'key' or closed_at is null)",
    )
    op.drop_index("uq_budgets_key_period", "budgets")
    op.create_index(
        "uq_budgets_key_period",
        "budgets",
        ["api_key_id", "period", "period_start"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("kind = 'key' and closed_at is null"),
    )
    op.add_column("batches", sa.Column("paused_needs_nano", sa.BigInteger(), nullable=True))
    op.add_column("batches", sa.Column("dearest_nano", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("drop view cost_by_key_period")
    op.drop_column("batches", "dearest_nano")
    op.drop_column("batches", "paused_needs_nano")
    op.drop_index("uq_budgets_key_period", "budgets")
    op.drop_constraint(op.f("ck_budgets_period"), "budgets")
    # Before, a start was all that told the budgets of a key apart.
    op.execute("update budgets set period_start = opened_at + id * interval '1 microsecond' where kind = 'key'")
    for column in ("lowered_to_nano", "closed_at", "opened_at", "resets_at", "period"):
        op.drop_column("budgets", column)
    op.create_index(
        "uq_budgets_key_period",
        "budgets",
        ["api_key_id", "period_start"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("kind = 'key'"),
    )
    op.drop_table("key_limits")
    PERIOD.drop(op.get_bind())
