"""What was active when, so that a promotion can be rolled back; why a version could not be loaded

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("router_versions", sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("router_versions", sa.Column("failure", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_router_versions_failure"), "router_versions", "(failed_at is null) = (failure is null)"
    )
    op.create_unique_constraint(op.f("uq_router_versions_artifact"), "router_versions", ["artifact"])
    op.create_table(
        "promotions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("router_version_id", sa.BigInteger(), nullable=True),
        sa.Column("beneath_id", sa.BigInteger(), nullable=True),
        sa.Column("rolled_back", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("router_version_id is not null or rolled_back", name=op.f("ck_promotions_version")),
        sa.ForeignKeyConstraint(
            ["router_version_id"], ["router_versions.id"], name=op.f("fk_promotions_router_version_id_router_versions")
        ),
        sa.ForeignKeyConstraint(["beneath_id"], ["promotions.id"], name=op.f("fk_promotions_beneath_id_promotions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )


def downgrade() -> None:
    op.drop_table("promotions")
    op.drop_constraint(op.f("uq_router_versions_artifact"), "router_versions")
    op.drop_constraint(op.f("ck_router_versions_failure"), "router_versions")
    op.drop_column("router_versions", "failure")
    op.drop_column("router_versions", "failed_at")
