"""Find live pumps without reading all that ever were

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_pumps_expires_at", "pumps", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_pumps_expires_at", table_name="pumps")
