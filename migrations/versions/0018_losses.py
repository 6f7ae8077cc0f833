"""How often a request's worker died

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", sa.Column("losses", sa.SmallInteger(), server_default="0", nullable=False))
    op.create_index(
        "ix_requests_alone",
        "requests",
        ["batch_id"],
        unique=False,
        postgresql_where=sa.text("state = 'scored' and losses >= 2"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_requests_alone", table_name="requests", postgresql_where=sa.text("state = 'scored' and losses >= 2")
    )
    op.drop_column("requests", "losses")
