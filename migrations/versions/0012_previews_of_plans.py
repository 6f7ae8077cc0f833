"""Previews of plans: what they found, when they were approved, and the standard deviations that intervals need

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# What waits for its approval has cost nothing and may have no budget.
VIEW = """
create or replace view cost_by_batch as
select b.id as batch_id, k.name as key_name, b.state, b.created_at, b.total as requests, b.succeeded, b.failed,
       round(g.limit_nano / 1e9, 9) as budget_usd, round(g.settled_nano / 1e9, 9) as settled_usd,
       round(g.reserved_nano / 1e9, 9) as reserved_usd, round(g.overrun_nano / 1e9, 9) as overrun_usd,
       b.duplicates, round(b.duplicates_saved_nano / 1e9, 9) as duplicates_saved_usd
from batches b join api_keys k on k.id = b.api_key_id join budgets g on g.batch_id = b.id
"""


def upgrade() -> None:
    op.add_column("batches", sa.Column("preview", JSONB(), nullable=True))
    op.add_column("batches", sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(op.f("ck_batches_approved"), "batches", "approved_at is null or preview is not null")
    op.add_column("requests", sa.Column("std", ARRAY(REAL()), nullable=True))
    op.execute(f"{VIEW} where b.preview is null or b.approved_at is not null")


def downgrade() -> None:
    op.execute(VIEW)
    op.drop_column("requests", "std")
    op.drop_constraint(op.f("ck_batches_approved"), "batches")
    op.drop_column("batches", "approved_at")
    op.drop_column("batches", "preview")
