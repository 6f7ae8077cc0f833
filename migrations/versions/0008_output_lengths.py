"""Output lengths learned from settled answers

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "length_models",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("upstream_model", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("last_attempt_id", sa.BigInteger(), nullable=False),
        sa.Column("metrics", JSONB(), nullable=False),
        sa.Column("fitted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("rows > 0", name=op.f("ck_length_models_rows")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_length_models")),
    )
    op.create_index("uq_length_models_model", "length_models", ["model", "upstream_model"], unique=True)


def downgrade() -> None:
    op.drop_table("length_models")
