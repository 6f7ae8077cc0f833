"""Settling: what came back from the upstreams closes attempts, moves money and writes answers, many in one transaction.

The sweep settles attempts whose worker died in the same way. An attempt is closed once: a second settlement of the same
attempt changes nothing. Locks, always in this order: batches (by id), budgets, attempts, requests, circuits.

What becomes of a request whose call brought no answer (`retries_of`) the retry policy decides, by the attempts that
count against its limit. Two kinds do not count:

- A refusal of us (401, 403) opens the model's circuit, and the request waits for that. Unless the model has answered a
  call that was sent after this request had been refused before: then it is the request that is refused.
- The death of a worker has a limit of its own (`quarantine`).

A batch may allow a fallback: what has used up its attempts on one model, or is too long for it, goes to the cheapest
candidate that it has not been sent to, with attempts of its own. Not what a client pinned, nor what is refused for what
it says: that another upstream might let it pass is no reason to ask there.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Unnest
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
    return _finishable(session, batch_ids)


def _cost(result: Result) -> int | None:
    usage = result.outcome.usage
    return cost_nano(result.price, usage.input, usage.output, usage.cached) if usage else None


def _lock_batches(session: Session, batch_ids: list[str]) -> None:
    session.execute(
        text("select id from batches where id = any(:ids) order by id for no key update"), {"ids": batch_ids}
    )


_CLOSED = Unnest(
    "closed",
    {
        "id": "bigint",
        "state": "attempt_state",
        "status_code": "int",
        "error_code": "text",
        "error_message": "text",
        "input_tokens": "int",
        "cached_tokens": "int",
        "output_tokens": "int",
        "reasoning_tokens": "int",
        "cost_nano": "bigint",
    },
)
_CLOSE_ATTEMPTS = text(f"""
update attempts set state = closed.state, ended_at = now(), status_code = closed.status_code,
       error_code = closed.error_code, error_message = closed.error_message, input_tokens = closed.input_tokens,
       cached_tokens = closed.cached_tokens, output_tokens = closed.output_tokens,
       reasoning_tokens = closed.reasoning_tokens, cost_nano = closed.cost_nano
from {_CLOSED} where attempts.id = closed.id and attempts.state = 'started'
returning attempts.id, attempts.model, attempts.cost_nano > attempts.reserved_nano as is_above_bounds
""")  # noqa: S608


def _close_attempts(session: Session, results: Sequence[Result], costs: dict[int, int]) -> dict[int, str]:
    """Returns the models that were called, by attempt."""
    outcomes = [result.outcome for result in results]
    usages = [outcome.usage for outcome in outcomes]
    closed = _CLOSED.parameters(
        id=[result.attempt_id for result in results],
        state=[outcome.state for outcome in outcomes],
        status_code=[outcome.status_code for outcome in outcomes],
        error_code=[outcome.error_code for outcome in outcomes],
        error_message=[outcome.error_message for outcome in outcomes],
        input_tokens=[usage.input if usage else None for usage in usages],
        cached_tokens=[usage.cached if usage else None for usage in usages],
        output_tokens=[usage.output if usage else None for usage in usages],
        reasoning_tokens=[usage.reasoning if usage else None for usage in usages],
        cost_nano=[costs[result.attempt_id] for result in results],
    )
    rows = session.execute(_CLOSE_ATTEMPTS, closed).all()
    for model in {row.model for row in rows if row.is_above_bounds}:
        log.error(
            "model %s was billed above its bounds; nothing more is sent to it until its overhead_tokens,"
            " max_output_tokens or cap_parameter are corrected",
            model,
        )
    return {row.id: row.model for row in rows}


# The answers travel as JSON: psycopg takes a microsecond for every quotation mark of an array's strings.
_WRITE_ANSWERS = text("""
with answered as (
    update requests set state = 'succeeded', pump_id = null, finished_at = now(), status_code = 200,
           response = answer.response, request_id = answer.request_id,
           cost_nano = requests.cost_nano + answer.cost_nano
    from json_to_recordset(cast(:answers as json))
         as answer(batch_id text, line int, response text, request_id text, cost_nano bigint)
    where requests.batch_id = answer.batch_id and requests.line = answer.line and requests.state = 'dispatching'
    returning requests.batch_id, requests.model, requests.expected_cost_nano, answer.cost_nano
), drift as (
    select batches.id, sum(answered.cost_nano - coalesce(answered.expected_cost_nano[candidate.number]
           * coalesce(batches.cost_factors[candidate.number], 1), answered.cost_nano)) as nano
    from answered join batches on batches.id = answered.batch_id
    cross join lateral (select array_position(batches.candidates, answered.model) as number) candidate
    group by batches.id
)
update batches set drift_nano = batches.drift_nano + cast(drift.nano as bigint) from drift where batches.id = drift.id
""")


def _write_answers(session: Session, results: Sequence[Result], costs: dict[int, int]) -> None:
    """Write the answers, and how far their costs are from what the plan expected of them."""
    answers = [
        {
            "batch_id": result.batch_id,
            "line": result.line,
            "response": result.outcome.body,
            "request_id": result.outcome.request_id,
            "cost_nano": costs[result.attempt_id],
        }
        for result in results
        if result.outcome.answered
    ]
    if answers:
        session.execute(_WRITE_ANSWERS, {"answers": orjson.dumps(answers).decode()})


_FAILURES = Unnest(
    "failure",
    {
        "batch_id": "text",
        "line": "int",
        "status_code": "int",
        "response": "text",
        "request_id": "text",
        "error_code": "text",
        "error_message": "text",
        "cost_nano": "bigint",
    },
)
_WRITE_FAILURES = text(f"""
update requests set state = 'failed', pump_id = null, finished_at = now(), status_code = failure.status_code,
       response = failure.response, request_id = failure.request_id, error_code = failure.error_code,
       error_message = failure.error_message, cost_nano = requests.cost_nano + failure.cost_nano
from {_FAILURES}
where requests.batch_id = failure.batch_id and requests.line = failure.line and requests.state = 'dispatching'
""")  # noqa: S608


def _write_failures(session: Session, results: Sequence[Result], costs: dict[int, int]) -> None:
    if not results:
        return
    outcomes = [result.outcome for result in results]
    failures = _FAILURES.parameters(
        batch_id=[result.batch_id for result in results],
        line=[result.line for result in results],
        status_code=[outcome.status_code if outcome.status_code != 200 else None for outcome in outcomes],
        response=[outcome.body if outcome.status_code != 200 else None for outcome in outcomes],
        request_id=[outcome.request_id for outcome in outcomes],
        error_code=[outcome.error_code for outcome in outcomes],
        error_message=[outcome.error_message for outcome in outcomes],
        cost_nano=[costs[result.attempt_id] for result in results],
    )
    session.execute(_WRITE_FAILURES, failures)


_RETRIES = Unnest(
    "retry",
    {
        "batch_id": "text",
        "line": "int",
        "delay_s": "double precision",
        "cost_nano": "bigint",
        "tries": "int",
        "losses": "int",
        "fallback": "text",
        "candidate": "int",
    },
)
# What falls back is ranked like what is pinned: first at its model's end, its own cost under the floor.
_WRITE_RETRIES = text(f"""
update requests set state = 'scored', pump_id = null, not_before = now() + make_interval(secs => retry.delay_s),
       cost_nano = requests.cost_nano + retry.cost_nano, tries = retry.tries, losses = retry.losses,
       fallback = coalesce(retry.fallback, requests.fallback),
       ratio = case when retry.candidate > 1 then 'infinity' when retry.candidate = 1 then '-infinity'
               else requests.ratio end,
       floor_nano = coalesce(requests.expected_cost_nano[retry.candidate], requests.floor_nano)
from {_RETRIES}
where requests.batch_id = retry.batch_id and requests.line = retry.line and requests.state = 'dispatching'
""")  # noqa: S608


def _write_retries(
    session: Session, results: Sequence[Result], costs: dict[int, int], retries: Sequence[Retry]
) -> None:
    if not results:
        return
    values = _RETRIES.parameters(
        batch_id=[result.batch_id for result in results],
        line=[result.line for result in results],
        delay_s=[retry.delay_s for retry in retries],
        cost_nano=[costs[result.attempt_id] for result in results],
        tries=[retry.tries for retry in retries],
        losses=[retry.losses for retry in retries],
        fallback=[retry.fallback for retry in retries],
        candidate=[retry.candidate for retry in retries],
    )
    session.execute(_WRITE_RETRIES, values)


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


def _finishable(session: Session, batch_ids: list[str]) -> list[str]:
    query = text(
        "select id from batches where id = any(:ids) and (state = 'cancelling' or expires_at <= now()"
        " or succeeded + failed >= total - duplicates)"
    )
    return list(session.scalars(query, {"ids": batch_ids}))


@dataclass(frozen=True, slots=True)
class Retry:
    """`tries`: how many of the request's attempts count so far. `losses`: in how many its worker died."""

    delay_s: float
    tries: int
    losses: int
    fallback: str | None = None  # the model that it goes to from now on
    candidate: int | None = None  # the number of that model among the candidates, from 1


# `is_at_fault`: the model has answered others since it refused this request. `candidates`: if it may fall back.
_UNANSWERED = text("""
select attempts.id, requests.tries, requests.losses,
       exists (select from attempts earlier join model_circuits on model_circuits.model = earlier.model
               where earlier.batch_id = attempts.batch_id and earlier.line = attempts.line
                 and earlier.number < attempts.number and earlier.model = attempts.model
                 and earlier.status_code in (401, 403)
                 and earlier.ended_at < model_circuits.answered_at) as is_at_fault,
       case when requests.pinned is null and batches.options ->> 'on_failure' = 'fallback' then batches.candidates end
           as candidates,
       array(select made.model from attempts made
             where made.batch_id = attempts.batch_id and made.line = attempts.line) as asked
from attempts
join requests on requests.batch_id = attempts.batch_id and requests.line = attempts.line
join batches on batches.id = attempts.batch_id
where attempts.id = any(:ids)
""")


def retries_of(
    session: Session, unanswered: Sequence[Result], policy: RetryPolicy, rng: random.Random
) -> dict[int, Retry]:
    """By attempt, what is to be tried again; the others end with what came back."""
    if not unanswered:
        return {}
    rows = {row.id: row for row in session.execute(_UNANSWERED, {"ids": [r.attempt_id for r in unanswered]})}
    retries = {}
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
            retries[result.attempt_id] = Retry(policy.delay_s(outcome, max(1, tries), rng), tries, losses)
        elif (outcome.retry and not lost) or outcome.is_too_long:
            others = [model for model in row.candidates or () if model not in row.asked]
            if others:
                candidate = row.candidates.index(others[0]) + 1
                retries[result.attempt_id] = Retry(0.0, 0, losses, others[0], candidate)
    return retries
