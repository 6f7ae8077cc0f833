"""Circuits of models whose upstream cannot be used, and attempts that count against the limit

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_circuits",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cause", sa.Enum("refused", "failing", name="circuit_cause"), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trial_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trials", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("failures >= 0 and trials >= 0", name=op.f("ck_model_circuits_counts")),
        sa.CheckConstraint(
            "(cause is null) = (opened_at is null) and (cause is null) = (trial_at is null)",
            name=op.f("ck_model_circuits_open"),
        ),
        sa.PrimaryKeyConstraint("model", "upstream", name=op.f("pk_model_circuits")),
    )
    op.add_column("requests", sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False))
    op.execute(
        "update requests set tries = attempts - (state = 'dispatching')::int"
        " where state in ('scored', 'dispatching') and attempts > 0"
    )


def downgrade() -> None:
    op.drop_column("requests", "tries")
    op.drop_table("model_circuits")
    op.execute("drop type circuit_cause")
