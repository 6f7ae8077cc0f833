"""Re-fits of routers

Revision ID: 0024
Revises: 0023
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TRIGGER = postgresql.ENUM("schedule", "comparisons", "drift", "manual", name="refit_trigger", create_type=False)
OUTCOME = postgresql.ENUM(
    "running", "promoted", "refused", "unchanged", "failed", "died", name="refit_outcome", create_type=False
)


def upgrade() -> None:
    TRIGGER.create(op.get_bind())
    OUTCOME.create(op.get_bind())
    op.create_table(
        "refits",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("trigger", TRIGGER, nullable=False),
        sa.Column("outcome", OUTCOME, server_default="running", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("last_comparison_id", sa.BigInteger(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("basis", sa.Text(), nullable=True),
        sa.Column("version_ids", postgresql.ARRAY(sa.BigInteger()), server_default="{}", nullable=False),
        sa.Column("figures", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(outcome = 'running') = (ended_at is null)", name=op.f("ck_refits_ended")),
        sa.CheckConstraint("outcome in ('running', 'promoted') or reason is not null", name=op.f("ck_refits_reason")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refits")),
    )
    op.create_index(
        "uq_refits_running", "refits", ["outcome"], unique=True, postgresql_where=sa.text("outcome = 'running'")
    )


def downgrade() -> None:
    op.drop_table("refits")
    OUTCOME.drop(op.get_bind())
    TRIGGER.drop(op.get_bind())
