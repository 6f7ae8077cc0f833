"""Feedback on answers

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("rating", sa.SmallInteger(), nullable=True),
        sa.Column("score", sa.SmallInteger(), nullable=True),
        sa.Column("preferred", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("num_nonnulls(rating, score, preferred) = 1", name=op.f("ck_feedback_one_vote")),
        sa.CheckConstraint("rating in (-1, 1)", name=op.f("ck_feedback_rating")),
        sa.CheckConstraint("score between 1 and 5", name=op.f("ck_feedback_score")),
        sa.ForeignKeyConstraint(
            ["batch_id", "line"], ["requests.batch_id", "requests.line"], name=op.f("fk_feedback_batch_id_requests")
        ),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_feedback")),
    )


def downgrade() -> None:
    op.drop_table("feedback")
