"""Paired answers: prompts of live traffic that two models have answered, drawn at random and so free of selection.

Each is a line of a client's batch and the line of its exploration that asked the other model (see `explore`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.openai_format.body import prompt_text

ROWS_AT_ONCE = 500

# `first`: the client's line; `second`: the companion's, which asked the other model.
_PAIRS = text("""
select first.batch_id, first.line, first.custom_id, first.body, array[first.model, second.model] as models,
       array[first.response, second.response] as responses, parent.candidates,
       coalesce(second.propensity, 1) as propensity
from batches companion
join batches parent on parent.id = companion.parent_id
join requests second on second.batch_id = companion.id and second.state = 'succeeded'
join requests first on first.batch_id = parent.id and first.line = second.source_line and first.state = 'succeeded'
where companion.purpose = 'explore' and (cast(:batch as text) is null or companion.parent_id = :batch)
  and (cast(:since as timestamptz) is null or second.finished_at >= :since)
order by companion.created_at, companion.id, second.line
""")


@dataclass(frozen=True, slots=True)
class PairedAnswer:
    """Two answers to one prompt, each the text of the first choice. `strong` is the dearer model of the two.

    `propensity`: the probability that this line was asked of both. `batch_id` and `line` are the client's.
    """

    batch_id: str
    line: int
    custom_id: str
    prompt: str
    body: dict[str, Any]
    strong: str
    strong_answer: str
    weak: str
    weak_answer: str
    propensity: float


def read_pairs(
    session: Session, *, batch_id: str | None = None, since: datetime | None = None
) -> Iterator[PairedAnswer]:
    """The pairs of a client's batch, or of all; `since`: whose second answer came at or after that moment.

    Streamed in the order in which they were asked. Pairs of which an answer has no text, but calls of tools, are left
    out.
    """
    query = _PAIRS.execution_options(yield_per=ROWS_AT_ONCE)
    with session.execute(query, {"batch": batch_id, "since": since}) as rows:
        for row in rows:
            answers = dict(zip(row.models, map(answer_text, row.responses), strict=True))
            weak, strong = sorted(answers, key=row.candidates.index)
            first, second = answers[strong], answers[weak]
            if first is None or second is None:
                continue
            body = orjson.loads(row.body)
            names = (row.batch_id, row.line, row.custom_id)
            yield PairedAnswer(*names, prompt_text(body), body, strong, first, weak, second, row.propensity)


def answer_text(response: str) -> str | None:
    """The text of the first choice of an upstream's body, given as JSON; None where there is none."""
    try:
        content = orjson.loads(response)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return content if isinstance(content, str) else None
