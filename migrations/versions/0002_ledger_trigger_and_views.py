"""An append-only ledger, and the cost views

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

APPEND_ONLY = """
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'integrity_constraint_violation';
end $$;
create trigger append_only before update or delete on ledger_entries
    for each row execute function refuse_change();
create trigger append_only_truncate before truncate on ledger_entries
    for each statement execute function refuse_change();
"""

VIEWS = """
create view cost_by_batch as
select b.id as batch_id, k.name as key_name, b.state, b.created_at, b.total as requests, b.succeeded, b.failed,
       round(g.limit_nano / 1e9, 9) as budget_usd, round(g.settled_nano / 1e9, 9) as settled_usd,
       round(g.reserved_nano / 1e9, 9) as reserved_usd, round(g.overrun_nano / 1e9, 9) as overrun_usd
from batches b join api_keys k on k.id = b.api_key_id join budgets g on g.batch_id = b.id;
comment on view cost_by_batch is 'A row a batch: its budget and what of it is settled, in dollars.';
comment on column cost_by_batch.settled_usd is 'Spent for certain, or charged because nobody can tell (see the ledger).';
comment on column cost_by_batch.reserved_usd is 'The worst case of the calls in flight now.';
comment on column cost_by_batch.overrun_usd is 'Billed by an upstream above what was reserved and allowed.';

create view cost_by_model_day as
select (a.started_at at time zone 'UTC')::date as day, a.model, a.upstream_model, count(*) as attempts,
       count(*) filter (where a.state = 'succeeded') as succeeded,
       count(*) filter (where a.state = 'refused') as refused,
       count(*) filter (where a.state = 'unknown') as unknown,
       coalesce(sum(a.input_tokens), 0) as input_tokens, coalesce(sum(a.output_tokens), 0) as output_tokens,
       round(sum(a.cost_nano) / 1e9, 9) as cost_usd
from attempts a where a.state <> 'started'
group by 1, 2, 3;
comment on view cost_by_model_day is 'A row a UTC day and model: closed attempts, billed tokens, dollars.';
comment on column cost_by_model_day.unknown is 'Attempts whose billing nobody knows; they are charged in full.';
comment on column cost_by_model_day.cost_usd is 'Settled on the ledger, overruns included.';

create view savings_by_batch as
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
) a on true
group by b.id;
comment on view savings_by_batch is
    'A row a batch with answers: what they cost, and what the strong model alone would have cost.';
comment on column savings_by_batch.all_strong_usd is
    'An estimate: the tokens of each weak answer at the strong model''s price when the batch was submitted.';
comment on column savings_by_batch.saved_usd is 'all_strong_usd - cost_usd.';
"""


def upgrade() -> None:
    op.execute(APPEND_ONLY)
    op.execute(VIEWS)


def downgrade() -> None:
    op.execute("drop view savings_by_batch; drop view cost_by_model_day; drop view cost_by_batch")
    op.execute("drop trigger append_only_truncate on ledger_entries; drop trigger append_only on ledger_entries")
    op.execute("drop function refuse_change()")
