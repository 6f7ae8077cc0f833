"""Find expired files

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WHERE = "deleted_at is null and expires_at is not null"


def upgrade() -> None:
    op.create_index("ix_files_expiry", "files", ["expires_at"], unique=False, postgresql_where=WHERE)


def downgrade() -> None:
    op.drop_index("ix_files_expiry", table_name="files", postgresql_where=WHERE)
