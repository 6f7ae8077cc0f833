"""Score ranges that are announced in turn: those that are not yet have no time

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

OPEN = sa.text("done_at is null")


def upgrade() -> None:
    op.alter_column("score_ranges", "announced_at", nullable=True, server_default=None)
    op.drop_index("ix_score_ranges_open", "score_ranges")
    op.create_index("ix_score_ranges_open", "score_ranges", ["batch_id", "first_line"], postgresql_where=OPEN)


def downgrade() -> None:
    op.drop_index("ix_score_ranges_open", "score_ranges")
    op.create_index("ix_score_ranges_open", "score_ranges", ["batch_id"], postgresql_where=OPEN)
    op.execute("update score_ranges set announced_at = now() where announced_at is null")
    op.alter_column("score_ranges", "announced_at", nullable=False, server_default=sa.text("now()"))
