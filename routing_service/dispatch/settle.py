"""Settling: what came back from the upstreams closes attempts, moves money and writes answers, many in one transaction.

Also what the sweep uses for attempts whose worker died. An attempt is closed once: a second settlement of the same
attempt changes nothing. Locks, always in this order: batches (by id), budgets, attempts, requests, circuits.

What follows for requests whose calls came back without an answer: which of them are tried again, and when.

The retry policy decides, by the attempts that count. A refusal of us (401, 403) does not: it opens the model's circuit,
and its request waits for that. Unless the model has answered a call that was sent after the same request
had been refused before: then it is the request that is refused. Nor does the death of a worker: that has a limit of its
own (`quarantine`).

A batch may allow a fallback: what has used up its attempts on one model, or is too long for it, goes to the cheapest
candidate that it has not been sent to, with attempts of its own. Not what a client pinned, nor what is refused for what
it says: that another upstream might let it pass is no reason to ask there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.dispatch.quarantine import MOST_LOSSES
from routing_service.money import ledger
from routing_service.money.pricing import Price, cost_nano
from routing_service.settings import ModelSettings
from routing_service.upstream.circuit_breaker import Call, record
from routing_service.upstream.outcome import LOST, Outcome, RetryPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """An attempt and its outcome."""

    batch_id: str
    line: int
    attempt_id: int
    price: Price
    outcome: Outcome


def settle(
    session: Session,
    results: Sequence[Result],
    policy: RetryPolicy,
    rng: random.Random,
    models: Mapping[str, ModelSettings] | None = None,
) -> list[str]:
    """Close the results' attempts and move their requests on. Returns the batches that now may be finished.

    `models`: as they were when the calls were made; their circuits learn of it. The sweep has none: it saw no call.
    """
    batch_ids = sorted({result.batch_id for result in results})
    _lock_batches(session, batch_ids)
    costs = ledger.close(session, [ledger.Closing(r.attempt_id, r.outcome.basis, _cost(r)) for r in results])
    fresh = [result for result in results if result.attempt_id in costs]
    called = _close_attempts(session, fresh, costs)
    _write_answers(session, fresh, costs)
    unanswered = [result for result in fresh if not result.outcome.answered]
    retries = retries_of(session, unanswered, policy, rng)
    _write_failures(session, [r for r in unanswered if r.attempt_id not in retries], costs)
    again = [r for r in unanswered if r.attempt_id in retries]
    _write_retries(session, again, costs, [retries[r.attempt_id] for r in again])
    _count(session, fresh, again, costs)
    record(session, models or {}, [Call(called[r.attempt_id], r.attempt_id, r.outcome) for r in fresh], rng)
    return _ripe(session, batch_ids)


def _cost(result: Result) -> int | None:
    usage = result.outcome.usage
    return cost_nano(result.price, usage.input, usage.output, usage.cached) if usage else None


def _lock_batches(session: Session, batch_ids: list[str]) -> None:
    session.execute(
        text("select id from batches where id = any(:ids) order by id for no key update"), {"ids": batch_ids}
    )


def _close_attempts(session: Session, results: Sequence[Result], costs: dict[int, int]) -> dict[int, str]:
    """Returns the models that were called, by attempt."""
    rows = session.execute(
        text(
            "update attempts a set state = cast(t.s as attempt_state), ended_at = now(), status_code = t.h,"
            " error_code = t.c, error_message = t.m, input_tokens = t.i, cached_tokens = t.k, output_tokens = t.o,"
            " reasoning_tokens = t.g, cost_nano = t.n from unnest(cast(:a as bigint[]), cast(:s as text[]),"
            " cast(:h as int[]), cast(:c as text[]), cast(:m as text[]), cast(:i as int[]), cast(:k as int[]),"
            " cast(:o as int[]), cast(:g as int[]), cast(:n as bigint[])) as t(a, s, h, c, m, i, k, o, g, n)"
            " where a.id = t.a and a.state = 'started'"
            " returning a.id, a.model, a.cost_nano > a.reserved_nano as is_above"
        ),
        {
            "a": [r.attempt_id for r in results],
            "s": [r.outcome.state for r in results],
            "h": [r.outcome.status_code for r in results],
            "c": [r.outcome.error_code for r in results],
            "m": [r.outcome.error_message for r in results],
            "i": [r.outcome.usage.input if r.outcome.usage else None for r in results],
            "k": [r.outcome.usage.cached if r.outcome.usage else None for r in results],
            "o": [r.outcome.usage.output if r.outcome.usage else None for r in results],
            "g": [r.outcome.usage.reasoning if r.outcome.usage else None for r in results],
            "n": [costs[r.attempt_id] for r in results],
        },
    ).all()
    for model in {row.model for row in rows if row.is_above}:
        log.error(
            "model %s was billed above its bounds; nothing more is sent to it until its overhead_tokens,"
            " max_output_tokens or cap_parameter are corrected",
            model,
        )
    return {row.id: row.model for row in rows}


def _write_answers(session: Session, results: Sequence[Result], costs: dict[int, int]) -> None:
    """Write the answers, and how far their costs are from what the plan expected of them."""
    answered = [r for r in results if r.outcome.answered]
    if not answered:
        return
    session.execute(
        text(
            "with done as (update requests q set state = 'succeeded', pump_id = null, finished_at = now(),"
            " status_code = 200, response = t.r, request_id = t.i, cost_nano = q.cost_nano + t.n from"
            " json_to_recordset(cast(:rows as json)) as t(b text, l int, r text, i text, n bigint)"
            " where q.batch_id = t.b and q.line = t.l"
            " and q.state = 'dispatching' returning q.batch_id, q.model, t.n, q.expected_cost_nano),"
            " drift as (select b.id, sum(d.n - coalesce(d.expected_cost_nano[p.at] * coalesce(b.cost_factors[p.at], 1),"
            " d.n)) as nano from done d join batches b on b.id = d.batch_id cross join lateral"
            " (select array_position(b.candidates, d.model) as at) p group by b.id)"
            " update batches b set drift_nano = b.drift_nano + cast(t.nano as bigint) from drift t where b.id = t.id"
        ),
        {"rows": orjson.dumps([_answer(r, costs[r.attempt_id]) for r in answered]).decode()},
    )


def _answer(result: Result, cost_nano: int) -> dict[str, Any]:
    """A row in JSON: psycopg takes a microsecond for every quotation mark of an array's strings."""
    outcome = result.outcome
    return {"b": result.batch_id, "l": result.line, "r": outcome.body, "i": outcome.request_id, "n": cost_nano}


def _write_failures(session: Session, results: Sequence[Result], costs: dict[int, int]) -> None:
    if not results:
        return
    session.execute(
        text(
            "update requests q set state = 'failed', pump_id = null, finished_at = now(), status_code = t.h,"
            " response = t.r, request_id = t.i, error_code = t.c, error_message = t.m, cost_nano = q.cost_nano + t.n"
            " from unnest(cast(:b as text[]), cast(:l as int[]), cast(:h as int[]), cast(:r as text[]),"
            " cast(:i as text[]), cast(:c as text[]), cast(:m as text[]), cast(:n as bigint[]))"
            " as t(b, l, h, r, i, c, m, n)"
            " where q.batch_id = t.b and q.line = t.l and q.state = 'dispatching'"
        ),
        {
            "b": [r.batch_id for r in results],
            "l": [r.line for r in results],
            "h": [r.outcome.status_code if r.outcome.status_code != 200 else None for r in results],
            "r": [r.outcome.body if r.outcome.status_code != 200 else None for r in results],
            "i": [r.outcome.request_id for r in results],
            "c": [r.outcome.error_code for r in results],
            "m": [r.outcome.error_message for r in results],
            "n": [costs[r.attempt_id] for r in results],
        },
    )


def _write_retries(
    session: Session, results: Sequence[Result], costs: dict[int, int], retries: Sequence[Retry]
) -> None:
    if not results:
        return
    session.execute(
        text(
            "update requests q set state = 'scored', pump_id = null, not_before = now() + make_interval(secs => t.d),"
            " cost_nano = q.cost_nano + t.n, tries = t.t, losses = t.o, fallback = coalesce(t.f, q.fallback),"
            # Like what is pinned: first at its model's end of the ranking, its own cost under the floor.
            " ratio = case when t.p > 1 then 'infinity' when t.p = 1 then '-infinity' else q.ratio end,"
            " floor_nano = coalesce(q.expected_cost_nano[t.p], q.floor_nano) from unnest(cast(:b as text[]),"
            " cast(:l as int[]), cast(:d as double precision[]), cast(:n as bigint[]), cast(:t as int[]),"
            " cast(:o as int[]), cast(:f as text[]), cast(:p as int[])) as t(b, l, d, n, t, o, f, p)"
            " where q.batch_id = t.b and q.line = t.l and q.state = 'dispatching'"
        ),
        {
            "b": [r.batch_id for r in results],
            "l": [r.line for r in results],
            "d": [retry.delay_s for retry in retries],
            "n": [costs[r.attempt_id] for r in results],
            "t": [retry.tries for retry in retries],
            "o": [retry.losses for retry in retries],
            "f": [retry.fallback for retry in retries],
            "p": [retry.place for retry in retries],
        },
    )


def _count(session: Session, fresh: Sequence[Result], again: Sequence[Result], costs: dict[int, int]) -> None:
    """Bring the batches' counters up to date; a request that is tried again goes back under its batch's floor."""
    retried = {(r.batch_id, r.line) for r in again}
    for batch_id in {r.batch_id for r in fresh}:
        mine = [r for r in fresh if r.batch_id == batch_id]
        succeeded = sum(r.outcome.answered for r in mine)
        lines = [line for owner, line in retried if owner == batch_id]
        lost = sum(costs[r.attempt_id] for r in mine if not r.outcome.answered)
        session.execute(
            text(
                "update batches set succeeded = succeeded + :succeeded, failed = failed + :failed,"
                " drift_nano = drift_nano + :lost, floor_nano = floor_nano + (select coalesce(sum(floor_nano), 0)"
                " from requests where batch_id = :id and line = any(:lines)) where id = :id"
            ),
            {
                "succeeded": succeeded,
                "failed": len(mine) - succeeded - len(lines),
                "lost": lost,
                "lines": lines,
                "id": batch_id,
            },
        )


def _ripe(session: Session, batch_ids: list[str]) -> list[str]:
    query = text(
        "select id from batches where id = any(:ids) and (state = 'cancelling' or expires_at <= now()"
        " or succeeded + failed >= total - duplicates)"
    )
    return list(session.scalars(query, {"ids": batch_ids}))


_ROWS = text(
    "select a.id, q.tries, q.losses, exists (select from attempts b join model_circuits c on c.model = b.model"
    " where b.batch_id = a.batch_id and b.line = a.line and b.number < a.number and b.model = a.model"
    " and b.status_code in (401, 403) and b.ended_at < c.answered_at) as is_at_fault,"
    " case when q.pinned is null and g.options ->> 'on_failure' = 'fallback' then g.candidates end as candidates,"
    " array(select b.model from attempts b where b.batch_id = a.batch_id and b.line = a.line) as asked"
    " from attempts a join requests q on q.batch_id = a.batch_id and q.line = a.line"
    " join batches g on g.id = a.batch_id where a.id = any(:ids)"
)


@dataclass(frozen=True, slots=True)
class Retry:
    """`tries`: how many of the request's attempts count so far. `losses`: in how many its worker died."""

    delay_s: float
    tries: int
    losses: int
    fallback: str | None = None  # the model that it goes to from now on
    place: int | None = None  # of that model among the candidates, from 1


def retries_of(
    session: Session, unanswered: Sequence[Result], policy: RetryPolicy, rng: random.Random
) -> dict[int, Retry]:
    """By attempt, what is to be tried again; the others end with what came back."""
    if not unanswered:
        return {}
    rows = {row.id: row for row in session.execute(_ROWS, {"ids": [r.attempt_id for r in unanswered]})}
    found = {}
    for result in unanswered:
        row, outcome = rows[result.attempt_id], result.outcome
        lost = outcome is LOST
        tries, losses = row.tries + (not lost and not outcome.refuses_us), row.losses + lost
        if lost:
            again = losses < MOST_LOSSES
        elif outcome.refuses_us:
            again = not row.is_at_fault
        else:
            again = policy.again(outcome, tries)
        if again:
            found[result.attempt_id] = Retry(policy.delay_s(outcome, max(1, tries), rng), tries, losses)
        elif (outcome.retry and not lost) or outcome.is_too_long:
            left = [model for model in row.candidates or () if model not in row.asked]
            if left:
                place = row.candidates.index(left[0]) + 1
                found[result.attempt_id] = Retry(0.0, 0, losses, left[0], place)
    return found
