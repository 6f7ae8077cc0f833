"""Probes and reserve of a batch, what its answers cost over what was expected, and how far its money drifted

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("probes", sa.SmallInteger(), nullable=True))
    op.add_column("batches", sa.Column("cost_factors", sa.ARRAY(sa.Double()), nullable=True))
    op.add_column("batches", sa.Column("floor_factor", sa.Double(), nullable=False, server_default="1"))
    op.add_column("batches", sa.Column("reserve_ratio", sa.Double(), nullable=True))
    op.add_column("batches", sa.Column("reserve_line", sa.Integer(), nullable=True))
    op.add_column("batches", sa.Column("drift_nano", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    for column in ("drift_nano", "reserve_line", "reserve_ratio", "floor_factor", "cost_factors", "probes"):
        op.drop_column("batches", column)
