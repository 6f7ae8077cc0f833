"""What a judge was asked, and its raw verdicts

Revision ID: 0026
Revises: 0025
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "judgements",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("parent_line", sa.Integer(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("judge", sa.Text(), nullable=False),
        sa.Column("model_a", sa.Text(), nullable=False),
        sa.Column("model_b", sa.Text(), nullable=True),
        sa.Column("swapped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "verdict in ('a', 'b', 'tie', '1', '2', '3', '4', '5', 'unparsed', 'unanswered')",
            name=op.f("ck_judgements_verdict"),
        ),
        sa.CheckConstraint("(verdict is null) = (read_at is null)", name=op.f("ck_judgements_read")),
        sa.ForeignKeyConstraint(
            ["batch_id", "line"], ["requests.batch_id", "requests.line"], name=op.f("fk_judgements_batch_id_requests")
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["batches.id"], name=op.f("fk_judgements_parent_id_batches")),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_judgements")),
    )
    op.create_index("ix_judgements_parent", "judgements", ["parent_id", "parent_line"])
    op.create_index("ix_judgements_unread", "judgements", ["batch_id"], postgresql_where=sa.text("verdict is null"))


def downgrade() -> None:
    op.drop_table("judgements")
