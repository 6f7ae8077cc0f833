"""How much expected costs count in a batch's ranking

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("cost_power", sa.Double(), nullable=False, server_default="1"))
    op.add_column("batches", sa.Column("mean_extra_nano", sa.ARRAY(sa.BigInteger()), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "mean_extra_nano")
    op.drop_column("batches", "cost_power")
