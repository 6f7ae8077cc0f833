"""Why a batch stands still, and why one went unscored

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("paused_reason", sa.Text(), nullable=True))
    op.add_column("batches", sa.Column("unscored_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("batches", "unscored_reason")
    op.drop_column("batches", "paused_reason")
