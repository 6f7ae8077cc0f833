"""Companions: batches of our own beside those of clients

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

COST_BY_BATCH = """
create or replace view cost_by_batch as
select b.id as batch_id, k.name as key_name, b.state, b.created_at, b.total as requests, b.succeeded, b.failed,
       round(g.limit_nano / 1e9, 9) as budget_usd, round(g.settled_nano / 1e9, 9) as settled_usd,
       round(g.reserved_nano / 1e9, 9) as reserved_usd, round(g.overrun_nano / 1e9, 9) as overrun_usd,
       b.duplicates, round(b.duplicates_saved_nano / 1e9, 9) as duplicates_saved_usd,
       round(b.cached_saved_nano / 1e9, 9) as cached_saved_usd{more}
from batches b join api_keys k on k.id = b.api_key_id join budgets g on g.batch_id = b.id
where b.preview is null or b.approved_at is not null;
"""
MORE = ", b.purpose, b.parent_id"
COMMENTS = """
comment on view cost_by_batch is 'A row a batch: its budget and what of it is settled, in dollars.';
comment on column cost_by_batch.settled_usd is 'Spent for certain, or charged because nobody can tell (see the ledger).';
comment on column cost_by_batch.reserved_usd is 'The worst case of the calls in flight now.';
comment on column cost_by_batch.overrun_usd is 'Billed by an upstream above what was reserved and allowed.';
comment on column cost_by_batch.duplicates is 'Requests that another one of the batch was asked in the stead of.';
comment on column cost_by_batch.duplicates_saved_usd is 'What the answers that duplicates share cost, once for each of them.';
comment on column cost_by_batch.cached_saved_usd is 'What the answers of earlier batches that it got cost them.';
"""
PURPOSE_COMMENTS = """
comment on column cost_by_batch.purpose is 'client: submitted by a client. Else calls of our own: explore, judge.';
comment on column cost_by_batch.parent_id is 'The batch that calls of our own are about.';
"""
SAVINGS_BY_BATCH = """
create or replace view savings_by_batch as
select b.id as batch_id, b.created_at, b.succeeded as answered,
       count(*) filter (where r.model = b.candidates[cardinality(b.candidates)]) as answered_by_strong,
       round(sum(r.cost_nano) / 1e9, 9) as cost_usd,
       round(sum(case when r.model = b.candidates[cardinality(b.candidates)] then r.cost_nano
                      else (a.input_tokens * b.strong_input_price::numeric
                            + a.output_tokens * b.strong_output_price::numeric) / 1e6 end) / 1e9, 9) as all_strong_usd,
       round(sum(case when r.model = b.candidates[cardinality(b.candidates)] then 0
                      else (a.input_tokens * b.strong_input_price::numeric
                            + a.output_tokens * b.strong_output_price::numeric) / 1e6 - r.cost_nano end) / 1e9, 9)
           as saved_usd
from batches b
join requests r on r.batch_id = b.id and r.state = 'succeeded'
join lateral (
    select a.input_tokens, a.output_tokens from attempts a
    where a.batch_id = r.batch_id and a.line = r.line and a.state = 'succeeded' order by a.number desc limit 1
) a on true{where}
group by b.id;
"""
REASONS = "'plan', 'share', 'threshold', 'pinned', 'unscored', 'budget', 'duplicate', 'cached', 'fallback'"
PARENT = "case purpose when 'client' then parent_id is null when 'explore' then parent_id is not null else true end"
# Companions become batches of files that were removed: what they spent stays where it was.
FILES = """
insert into files (id, api_key_id, purpose, filename, bytes, deleted_at)
select replace(id, 'batch_', 'file-'), api_key_id, 'batch', 'companion.jsonl', 0, now() from batches where input_file_id is null;
update batches set input_file_id = replace(id, 'batch_', 'file-') where input_file_id is null;
"""
PURPOSE = postgresql.ENUM("client", "explore", "judge", name="batch_purpose")


def upgrade() -> None:
    op.execute("alter type reason add value 'explore'")
    PURPOSE.create(op.get_bind())
    op.add_column(
        "batches",
        sa.Column(
            "purpose", postgresql.ENUM(name="batch_purpose", create_type=False), server_default="client", nullable=False
        ),
    )
    op.add_column("batches", sa.Column("parent_id", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_batches_parent_id_batches"), "batches", "batches", ["parent_id"], ["id"])
    op.alter_column("batches", "input_file_id", nullable=True)
    op.create_check_constraint(
        op.f("ck_batches_input"), "batches", "(purpose = 'client') = (input_file_id is not null)"
    )
    op.create_check_constraint(op.f("ck_batches_parent"), "batches", PARENT)
    op.create_index(
        "uq_batches_explore", "batches", ["parent_id"], unique=True, postgresql_where=sa.text("purpose = 'explore'")
    )
    op.add_column("requests", sa.Column("source_line", sa.Integer(), nullable=True))
    op.add_column("requests", sa.Column("propensity", sa.REAL(), nullable=True))
    op.execute(COST_BY_BATCH.format(more=MORE))
    op.execute(PURPOSE_COMMENTS)
    op.execute(SAVINGS_BY_BATCH.format(where="\nwhere b.purpose = 'client'"))


def downgrade() -> None:
    op.execute(SAVINGS_BY_BATCH.format(where=""))
    op.execute("drop view cost_by_batch")
    op.execute(COST_BY_BATCH.format(more="") + COMMENTS)
    op.drop_column("requests", "propensity")
    op.drop_column("requests", "source_line")
    op.drop_index("uq_batches_explore", table_name="batches")
    op.drop_constraint(op.f("ck_batches_parent"), "batches")
    op.drop_constraint(op.f("ck_batches_input"), "batches")
    op.execute(FILES)
    op.alter_column("batches", "input_file_id", nullable=False)
    op.drop_column("batches", "parent_id")
    op.drop_column("batches", "purpose")
    PURPOSE.drop(op.get_bind())
    op.execute("alter type reason rename to reason_with_explore")
    op.execute(f"create type reason as enum ({REASONS})")
    for table in ("requests", "decisions"):
        op.execute(
            f"alter table {table} alter column reason type reason"
            " using (case reason::text when 'explore' then 'pinned' else reason::text end)::reason"
        )
    op.execute("drop type reason_with_explore")
