"""Requests that go to another model when their attempts on the first one are used up

Revision ID: 0019
Revises: 0018
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

REASONS = "'plan', 'share', 'threshold', 'pinned', 'unscored', 'budget', 'duplicate', 'cached'"


def upgrade() -> None:
    op.execute("alter type reason add value 'fallback'")
    op.add_column("requests", sa.Column("fallback", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("requests", "fallback")
    op.execute("alter type reason rename to reason_with_fallback")
    op.execute(f"create type reason as enum ({REASONS})")
    for table in ("requests", "decisions"):
        op.execute(
            f"alter table {table} alter column reason type reason"
            " using (case reason::text when 'fallback' then 'plan' else reason::text end)::reason"
        )
    op.execute("drop type reason_with_fallback")
