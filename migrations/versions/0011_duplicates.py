"""Duplicate prompts of a batch are asked once

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NEVER_ASKED = (
    "twin_of is null or (state not in ('scored', 'dispatching') and attempts = 0 and cost_nano = 0"
    " and floor_nano = 0 and response is null)"
)
COST_BY_BATCH = """
create or replace view cost_by_batch as
select b.id as batch_id, k.name as key_name, b.state, b.created_at, b.total as requests, b.succeeded, b.failed,
       round(g.limit_nano / 1e9, 9) as budget_usd, round(g.settled_nano / 1e9, 9) as settled_usd,
       round(g.reserved_nano / 1e9, 9) as reserved_usd, round(g.overrun_nano / 1e9, 9) as overrun_usd{more}
from batches b join api_keys k on k.id = b.api_key_id join budgets g on g.batch_id = b.id;
"""
MORE = ", b.duplicates, round(b.duplicates_saved_nano / 1e9, 9) as duplicates_saved_usd"
COMMENTS = """
comment on view cost_by_batch is 'A row a batch: its budget and what of it is settled, in dollars.';
comment on column cost_by_batch.settled_usd is 'Spent for certain, or charged because nobody can tell (see the ledger).';
comment on column cost_by_batch.reserved_usd is 'The worst case of the calls in flight now.';
comment on column cost_by_batch.overrun_usd is 'Billed by an upstream above what was reserved and allowed.';
"""
MORE_COMMENTS = """
comment on column cost_by_batch.duplicates is 'Requests that another one of the batch was asked in the stead of.';
comment on column cost_by_batch.duplicates_saved_usd is 'What the answers that duplicates share cost, once for each of them.';
"""
REASONS = "'plan', 'share', 'threshold', 'pinned', 'unscored', 'budget'"


def upgrade() -> None:
    op.execute("alter type reason add value 'duplicate'")
    op.add_column("batches", sa.Column("duplicates", sa.Integer(), server_default="0", nullable=False))
    op.add_column("batches", sa.Column("duplicates_saved_nano", sa.BigInteger(), server_default="0", nullable=False))
    op.create_check_constraint(
        op.f("ck_batches_duplicates"), "batches", "duplicates between 0 and greatest(0, total - 1)"
    )
    op.add_column("requests", sa.Column("twin_of", sa.Integer()))
    op.add_column("requests", sa.Column("answers", sa.Integer(), server_default="1", nullable=False))
    op.create_check_constraint(op.f("ck_requests_twins"), "requests", "answers >= 1 and twin_of < line")
    op.create_check_constraint(op.f("ck_requests_twins_are_never_asked"), "requests", NEVER_ASKED)
    op.drop_constraint(op.f("ck_requests_answered"), "requests")
    op.create_check_constraint(
        op.f("ck_requests_answered"),
        "requests",
        "state <> 'succeeded' or response is not null or twin_of is not null",
    )
    op.execute(COST_BY_BATCH.format(more=MORE) + COMMENTS + MORE_COMMENTS)


def downgrade() -> None:
    op.execute("drop view cost_by_batch")
    op.execute(COST_BY_BATCH.format(more="") + COMMENTS)
    op.drop_constraint(op.f("ck_requests_twins_are_never_asked"), "requests")
    # Every twin becomes a line that was answered for itself.
    op.execute(
        "update requests t set response = f.response from requests f where f.batch_id = t.batch_id"
        " and f.line = t.twin_of and t.state = 'succeeded'"
    )
    op.drop_constraint(op.f("ck_requests_answered"), "requests")
    op.create_check_constraint(op.f("ck_requests_answered"), "requests", "state <> 'succeeded' or response is not null")
    op.drop_column("requests", "twin_of")
    op.drop_column("requests", "answers")
    op.drop_column("batches", "duplicates_saved_nano")
    op.drop_column("batches", "duplicates")
    op.execute("alter type reason rename to reason_with_duplicate")
    op.execute(f"create type reason as enum ({REASONS})")
    for table in ("requests", "decisions"):
        op.execute(
            f"alter table {table} alter column reason type reason"
            " using (case reason::text when 'duplicate' then 'plan' else reason::text end)::reason"
        )
    op.execute("drop type reason_with_duplicate")
