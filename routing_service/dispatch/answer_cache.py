"""Reuse: a batch that opted in (`dedupe: "key"`) gets answers that earlier batches of its API key paid for.

Whether there is one is asked when a request is claimed, for only then its model is known: the same call, answered by
the same model within the same bounds, not too long ago, for a batch of the same key that opted in as well. The answer
is copied, so what it came from may go. Only answers of calls are sources: one that was reused grows no younger by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.dispatch.claim_queries import PLACES, Choice, StoredPlan, insert_decisions, planned_models
from routing_service.models import Reason
from routing_service.money.pricing import PriceBook
from routing_service.settings import Settings

ROWS_AT_ONCE = 1000


class Reused(NamedTuple):
    """`rows`: those of a claim chunk that are still to be asked; `plan`: without the floor of the others, `answered` in
    number. `ripe`: nothing of the batch is left to be asked."""

    plan: StoredPlan
    rows: list[Row[Any]]
    answered: int = 0
    ripe: bool = False


_FIND = text("""
select t.line, f.batch_id as source, f.line as source_line, f.cost_nano
from unnest(cast(:lines as int[]), cast(:digests as bytea[]), cast(:models as text[]), cast(:bounds as text[]))
     as t(line, digest, model, bounds)
cross join lateral (
    select q.batch_id, q.line, a.cost_nano from requests q
    join batches b on b.id = q.batch_id and b.api_key_id = :key
    join attempts a on a.batch_id = q.batch_id and a.line = q.line and a.state = 'succeeded' and a.bounds = t.bounds
    where q.call_digest = t.digest and q.model = t.model and q.state = 'succeeded'
      and q.finished_at > now() - make_interval(secs => :age) order by q.finished_at desc limit 1
) f
""")
_ANSWER = text(
    "update requests q set state = 'succeeded', reason = 'cached', model = f.model, not_before = null,"  # noqa: S608
    " finished_at = now(), status_code = 200, response = f.response, request_id = f.request_id, call_digest = null"
    f" from unnest({PLACES}, cast(:sources as text[]), cast(:source_lines as int[])) as t(place, source, source_line)"
    " join requests f on f.batch_id = t.source and f.line = t.source_line where q.ctid = t.place"
)
_COUNT = text(
    "update batches set succeeded = succeeded + :answered, floor_nano = :floor,"
    " cached_saved_nano = cached_saved_nano + :saved where id = :id"
    " returning succeeded + failed >= total - duplicates"
)


def reuse_answers(
    session: Session, settings: Settings, prices: PriceBook, plan: StoredPlan, rows: list[Row[Any]]
) -> Reused:
    """Answer what of a claim chunk an earlier answer stands for. The batch and the rows are locked by the caller."""
    asking = [row for row in rows if row.call_digest is not None]
    if not asking:
        return Reused(plan, rows)
    planned = planned_models(asking, plan, settings, prices)
    models = {row.line: row.pinned or planned[row.line] for row in asking}
    asking = [row for row in asking if models[row.line] in settings.models]
    found = {hit.line: hit for hit in _find(session, settings, plan, asking, models)}
    if not found:
        return Reused(plan, rows)
    served = [row for row in asking if row.line in found]
    hits = [found[row.line] for row in served]
    nothing = prices.price(plan.cheapest, 0)
    insert_decisions(session, plan, [Choice(row, models[row.line], Reason.CACHED, nothing, 0) for row in served])
    session.execute(
        _ANSWER,
        {
            "places": [row.place for row in served],
            "sources": [hit.source for hit in hits],
            "source_lines": [hit.source_line for hit in hits],
        },
    )
    floor = max(0, plan.floor_nano - sum(row.floor_nano for row in served))
    counts = {"answered": len(served), "floor": floor, "saved": sum(hit.cost_nano for hit in hits)}
    ripe = session.scalar(_COUNT, counts | {"id": plan.batch_id})
    rest = [row for row in rows if row.line not in found]
    return Reused(replace(plan, floor_nano=floor), rest, len(served), bool(ripe))


def _find(
    session: Session, settings: Settings, plan: StoredPlan, rows: Sequence[Row[Any]], models: dict[int, str]
) -> Sequence[Row[Any]]:
    return session.execute(
        _FIND,
        {
            "key": plan.api_key_id,
            "lines": [row.line for row in rows],
            "digests": [row.call_digest for row in rows],
            "models": [models[row.line] for row in rows],
            "bounds": [settings.models[models[row.line]].bounds for row in rows],
            "age": settings.dispatch.reuse_answers_s,
        },
    ).all()


def forget_old_answers(database: Database, settings: Settings) -> None:
    """Take what is too old to be reused out of the index, in small transactions."""
    query = text(
        "with old as (update requests set call_digest = null where ctid = any(array(select ctid from requests"
        " where call_digest is not null and finished_at <= now() - make_interval(secs => :age) limit :limit"
        " for update skip locked)) returning 1) select count(*) from old"
    )
    forgotten = ROWS_AT_ONCE
    while forgotten == ROWS_AT_ONCE:
        with database.transaction() as session:
            values = {"age": settings.dispatch.reuse_answers_s, "limit": ROWS_AT_ONCE}
            forgotten = session.execute(query, values).scalar_one()
