"""What batches set aside of their budgets for exploration

Revision ID: 0025
Revises: 0024
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("explore_nano", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("batches", sa.Column("explored_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint(op.f("ck_batches_floor"), "batches")
    op.create_check_constraint(op.f("ck_batches_floor"), "batches", "floor_nano >= 0 and explore_nano >= 0")
    op.create_index(
        "ix_batches_to_explore",
        "batches",
        ["id"],
        postgresql_where=sa.text("explore_nano > 0 and explored_at is null"),
    )


def downgrade() -> None:
    op.drop_index("ix_batches_to_explore", table_name="batches")
    op.drop_constraint(op.f("ck_batches_floor"), "batches")
    op.create_check_constraint(op.f("ck_batches_floor"), "batches", "floor_nano >= 0")
    op.drop_column("batches", "explored_at")
    op.drop_column("batches", "explore_nano")
