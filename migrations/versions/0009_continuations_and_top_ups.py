"""Batches that continue others, and money added to running ones

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("continues", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_batches_continues_batches"), "batches", "batches", ["continues"], ["id"])
    op.create_index(
        "uq_batches_continues",
        "batches",
        ["continues"],
        unique=True,
        postgresql_where=sa.text("continues is not null and state <> 'failed'"),
    )
    op.create_table(
        "top_ups",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("amount_nano > 0", name=op.f("ck_top_ups_amount")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_top_ups_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_top_ups")),
    )
    op.create_index("uq_top_ups_idempotency", "top_ups", ["batch_id", "idempotency_key"], unique=True)


def downgrade() -> None:
    op.drop_table("top_ups")
    op.drop_index("uq_batches_continues", table_name="batches")
    op.drop_constraint(op.f("fk_batches_continues_batches"), "batches", type_="foreignkey")
    op.drop_column("batches", "continues")
