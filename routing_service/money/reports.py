"""Cost and savings, in dollars, from the SQL views, and how well output lengths are predicted.

Every function reads only. Dollars are exact decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

Row = Mapping[str, Any]

# savings_by_batch is asked a batch at a time: its rows are too dear to make for batches nobody wants to see
COSTS_BY_BATCH = """
select cost.batch_id, cost.key_name, cost.state, cost.created_at, cost.requests, cost.succeeded, cost.failed,
       saving.answered_by_strong, cost.budget_usd, cost.settled_usd as cost_usd, cost.reserved_usd, cost.overrun_usd,
       saving.all_strong_usd, saving.saved_usd, cost.duplicates, cost.duplicates_saved_usd, cost.cached_saved_usd,
       cost.purpose,
       cost.parent_id
from cost_by_batch cost left join lateral (select * from savings_by_batch saving
    where saving.batch_id = cost.batch_id) saving on true
where (cast(:since as date) is null or cost.created_at >= cast(:since as date) at time zone 'UTC')
  and (cast(:batch as text) is null or cost.batch_id = :batch)
order by cost.created_at desc, cost.batch_id
"""
SUMS = """
       sum(attempts)::bigint as attempts, sum(succeeded)::bigint as succeeded, sum(refused)::bigint as refused,
       sum(unknown)::bigint as unknown, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens, sum(cost_usd) as cost_usd
from cost_by_model_day where cast(:since as date) is null or day >= cast(:since as date)
"""
COSTS_BY_MODEL = f"select model, upstream_model, {SUMS} group by model, upstream_model order by model, upstream_model"
COSTS_BY_DAY = f"select day, {SUMS} group by day order by day desc"
LENGTHS = """
select model, upstream_model, rows, (metrics ->> 'mean_tokens')::float8 as mean_tokens,
       (metrics ->> 'median_error')::float8 as median_error,
       (metrics ->> 'median_error_of_constant')::float8 as median_error_of_constant,
       (metrics ->> 'r2')::float8 as r2, (metrics ->> 'coverage')::float8 as coverage, fitted_at
from length_models order by model, upstream_model
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A table of figures. `totals` sums the columns that can be summed."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def totals(self) -> dict[str, int | Decimal]:
        sums: dict[str, int | Decimal] = {}
        for column in self.columns:
            values = [row[column] for row in self.rows if row[column] is not None]
            if values and all(isinstance(value, int | Decimal) for value in values):
                sums[column] = sum(values)
        return sums


def costs_by_batch(session: Session, *, since: date | None = None, batch_id: str | None = None) -> Report:
    """A row a batch, newest first: budget, cost, and what the strong model alone would have cost.

    What answers by strong would have cost is null for a batch without answers, and for a companion (`purpose` says of
    what kind, `parent_id` of which batch). `cost_usd` is what is settled on the batch's budget, `overrun_usd` comes
    on top of it.
    """
    return _report(session, COSTS_BY_BATCH, {"since": since, "batch": batch_id})


def costs_by_model(session: Session, *, since: date | None = None) -> Report:
    """A row a model: its closed attempts, billed tokens and dollars (overruns included)."""
    return _report(session, COSTS_BY_MODEL, {"since": since})


def costs_by_day(session: Session, *, since: date | None = None) -> Report:
    """A row a UTC day, newest first: closed attempts, billed tokens and dollars (overruns included)."""
    return _report(session, COSTS_BY_DAY, {"since": since})


def lengths(session: Session) -> Report:
    """A row a model whose output lengths are learned; errors as `lengths.LengthModel.metrics` has them."""
    return _report(session, LENGTHS, {})


def _report(session: Session, query: str, values: dict[str, Any]) -> Report:
    result = session.execute(text(query), values)
    return Report(tuple(result.keys()), tuple(dict(row) for row in result.mappings()))
