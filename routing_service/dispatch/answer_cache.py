"""The answer cache: a batch that opted in (`dedupe: "key"`) gets answers that earlier batches of its API key paid for.

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

from routing_service.db import Database, Unnest
from routing_service.dispatch.claim_queries import Choice, StoredPlan, insert_decisions, planned_models
from routing_service.models import Reason
from routing_service.money.pricing import PriceBook
from routing_service.settings import Settings

ROWS_AT_ONCE = 1000


class Reused(NamedTuple):
    """What a claim has left after the cache. `plan`: without the floor of what was answered."""

    plan: StoredPlan
    rows: list[Row[Any]]  # still to be asked
    answered: int = 0
    may_finish: bool = False  # nothing of the batch is left to be asked


def reuse_answers(
    session: Session, settings: Settings, prices: PriceBook, plan: StoredPlan, rows: list[Row[Any]]
) -> Reused:
    """Answer those of the rows for which there is an earlier answer. The caller has locked the batch and the rows."""
    asking = [row for row in rows if row.call_digest is not None]
    if not asking:
        return Reused(plan, rows)
    planned = planned_models(asking, plan, settings, prices)
    models = {row.line: row.pinned or planned[row.line] for row in asking}
    asking = [row for row in asking if models[row.line] in settings.models]
    hits = {hit.line: hit for hit in _find(session, settings, plan, asking, models)}
    if not hits:
        return Reused(plan, rows)
    served = [row for row in asking if row.line in hits]
    nothing = prices.price(plan.cheapest, 0)
    insert_decisions(session, plan, [Choice(row, models[row.line], Reason.CACHED, nothing, 0) for row in served])
    answers = _ANSWERS.parameters(
        place=[row.place for row in served],
        batch_id=[hits[row.line].source for row in served],
        line=[hits[row.line].source_line for row in served],
    )
    session.execute(_COPY_ANSWERS, answers)
    floor = max(0, plan.floor_nano - sum(row.floor_nano for row in served))
    counts = {"answered": len(served), "floor": floor, "saved": sum(hits[row.line].cost_nano for row in served)}
    may_finish = session.scalar(_COUNT, counts | {"id": plan.batch_id})
    rest = [row for row in rows if row.line not in hits]
    return Reused(replace(plan, floor_nano=floor), rest, len(served), bool(may_finish))


_CALLS = Unnest("call", {"line": "int", "digest": "bytea", "model": "text", "bounds": "text"})
_FIND = text(f"""
select call.line, earlier.batch_id as source, earlier.line as source_line, earlier.cost_nano
from {_CALLS}
cross join lateral (
    select requests.batch_id, requests.line, attempts.cost_nano from requests
    join batches on batches.id = requests.batch_id and batches.api_key_id = :key
    join attempts on attempts.batch_id = requests.batch_id and attempts.line = requests.line
         and attempts.state = 'succeeded' and attempts.bounds = call.bounds
    where requests.call_digest = call.digest and requests.model = call.model and requests.state = 'succeeded'
      and requests.finished_at > now() - make_interval(secs => :age) order by requests.finished_at desc limit 1
) earlier
""")  # noqa: S608


def _find(
    session: Session, settings: Settings, plan: StoredPlan, rows: Sequence[Row[Any]], models: dict[int, str]
) -> Sequence[Row[Any]]:
    calls = _CALLS.parameters(
        line=[row.line for row in rows],
        digest=[row.call_digest for row in rows],
        model=[models[row.line] for row in rows],
        bounds=[settings.models[models[row.line]].bounds for row in rows],
    )
    return session.execute(_FIND, {"key": plan.api_key_id, "age": settings.dispatch.reuse_answers_s, **calls}).all()


_ANSWERS = Unnest("answer", {"place": "tid", "batch_id": "text", "line": "int"})
_COPY_ANSWERS = text(f"""
update requests set state = 'succeeded', reason = 'cached', model = source.model, not_before = null,
       finished_at = now(), status_code = 200, response = source.response, request_id = source.request_id,
       call_digest = null
from {_ANSWERS} join requests source on source.batch_id = answer.batch_id and source.line = answer.line
where requests.ctid = answer.place
""")  # noqa: S608
_COUNT = text(
    "update batches set succeeded = succeeded + :answered, floor_nano = :floor,"
    " cached_saved_nano = cached_saved_nano + :saved where id = :id"
    " returning succeeded + failed >= total - duplicates"
)


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
