"""What follows for requests whose calls came back without an answer: which of them are tried again, and when.

The retry policy decides, by the attempts that count. A refusal of us (401, 403) does not: it opens the model's circuit
(`circuits`), and its request waits for that. Unless the model has answered a call that was sent after the same request
had been refused before: then it is the request that is refused. Nor does the death of a worker: that has a limit of its
own (`suspects`).

A batch may allow a fallback: what has used up its attempts on one model, or is too long for it, goes to the cheapest
candidate that it has not been sent to, with attempts of its own. Not what a client pinned, nor what is refused for what
it says: that another upstream might let it pass is no reason to ask there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.batches.suspects import MOST_LOSSES
from routing_service.outcomes import LOST, RetryPolicy

if TYPE_CHECKING:
    from routing_service.batches.settle import Result

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
