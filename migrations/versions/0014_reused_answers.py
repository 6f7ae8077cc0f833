"""Answers that earlier batches of a key paid for are reused

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

COST_BY_BATCH = """
create or replace view cost_by_batch as
select b.id as batch_id, k.name as key_name, b.state, b.created_at, b.total as requests, b.succeeded, b.failed,
       round(g.limit_nano / 1e9, 9) as budget_usd, round(g.settled_nano / 1e9, 9) as settled_usd,
       round(g.reserved_nano / 1e9, 9) as reserved_usd, round(g.overrun_nano / 1e9, 9) as overrun_usd,
       b.duplicates, round(b.duplicates_saved_nano / 1e9, 9) as duplicates_saved_usd{more}
from batches b join api_keys k on k.id = b.api_key_id join budgets g on g.batch_id = b.id
where b.preview is null or b.approved_at is not null;
"""
MORE = ", round(b.cached_saved_nano / 1e9, 9) as cached_saved_usd"
COMMENTS = """
comment on view cost_by_batch is 'A row a batch: its budget and what of it is settled, in dollars.';
comment on column cost_by_batch.settled_usd is 'Spent for certain, or charged because nobody can tell (see the ledger).';
comment on column cost_by_batch.reserved_usd is 'The worst case of the calls in flight now.';
comment on column cost_by_batch.overrun_usd is 'Billed by an upstream above what was reserved and allowed.';
comment on column cost_by_batch.duplicates is 'Requests that another one of the batch was asked in the stead of.';
comment on column cost_by_batch.duplicates_saved_usd is 'What the answers that duplicates share cost, once for each of them.';
"""
COMMENT = (
    "comment on column cost_by_batch.cached_saved_usd is 'What the answers of earlier batches that it got cost them.'"
)
REASONS = "'plan', 'share', 'threshold', 'pinned', 'unscored', 'budget', 'duplicate'"


def upgrade() -> None:
    op.execute("alter type reason add value 'cached'")
    op.add_column("batches", sa.Column("cached_saved_nano", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("requests", sa.Column("call_digest", sa.LargeBinary()))
    op.create_index(
        "ix_requests_reuse",
        "requests",
        ["call_digest", "model"],
        postgresql_where=sa.text("call_digest is not null and state = 'succeeded'"),
    )
    op.create_index(
        "ix_requests_reuse_age", "requests", ["finished_at"], postgresql_where=sa.text("call_digest is not null")
    )
    op.execute(COST_BY_BATCH.format(more=MORE))
    op.execute(COMMENT)


def downgrade() -> None:
    op.execute("drop view cost_by_batch")
    op.execute(COST_BY_BATCH.format(more="") + COMMENTS)
    op.drop_index("ix_requests_reuse_age", table_name="requests")
    op.drop_index("ix_requests_reuse", table_name="requests")
    op.drop_column("requests", "call_digest")
    op.drop_column("batches", "cached_saved_nano")
    op.execute("alter type reason rename to reason_with_cached")
    op.execute(f"create type reason as enum ({REASONS})")
    for table in ("requests", "decisions"):
        op.execute(
            f"alter table {table} alter column reason type reason"
            " using (case reason::text when 'cached' then 'plan' else reason::text end)::reason"
        )
    op.execute("drop type reason_with_cached")
