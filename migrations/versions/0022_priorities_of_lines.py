"""Lines with a priority of their own within their batch

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

SCORED = sa.text("state = 'scored'")
SMALLINTS = postgresql.ARRAY(sa.SmallInteger())


def upgrade() -> None:
    op.add_column("batches", sa.Column("line_priorities", SMALLINTS, server_default="{5}", nullable=False))
    op.add_column("requests", sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False))
    op.create_check_constraint(op.f("ck_requests_priority"), "requests", "priority between 0 and 9")
    op.drop_index("ix_requests_claim", table_name="requests")
    op.create_index("ix_requests_claim", "requests", ["batch_id", "priority", "ratio", "line"], postgresql_where=SCORED)


def downgrade() -> None:
    op.drop_index("ix_requests_claim", table_name="requests")
    op.create_index("ix_requests_claim", "requests", ["batch_id", "ratio", "line"], postgresql_where=SCORED)
    op.drop_column("requests", "priority")
    op.drop_column("batches", "line_priorities")
