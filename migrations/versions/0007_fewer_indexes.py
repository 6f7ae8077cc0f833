"""Drop two indexes that every request paid for and that served no query

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

DISPATCHING = "state = 'dispatching'"


def upgrade() -> None:
    op.drop_index("ix_requests_dispatching", table_name="requests", postgresql_where=DISPATCHING)
    op.drop_index("ix_ledger_entries_budget", table_name="ledger_entries")


def downgrade() -> None:
    op.create_index("ix_ledger_entries_budget", "ledger_entries", ["budget_id"], unique=False)
    op.create_index(
        "ix_requests_dispatching", "requests", ["pump_id", "batch_id"], unique=False, postgresql_where=DISPATCHING
    )
