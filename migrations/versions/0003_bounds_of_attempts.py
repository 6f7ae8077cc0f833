"""What an attempt's reservation rested on, and which attempts were billed above it

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("bounds", sa.Text(), server_default="", nullable=False))
    op.create_index(
        "ix_attempts_overrun",
        "attempts",
        ["model", "bounds"],
        unique=False,
        postgresql_where="cost_nano > reserved_nano",
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_overrun", table_name="attempts", postgresql_where="cost_nano > reserved_nano")
    op.drop_column("attempts", "bounds")
