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

_PAIRS = text(
    "select a.batch_id, a.line, a.custom_id, a.body, array[a.model, b.model] as models,"
    " array[a.response, b.response] as responses, p.candidates, coalesce(b.propensity, 1) as propensity"
    " from batches c join batches p on p.id = c.parent_id"
    " join requests b on b.batch_id = c.id and b.state = 'succeeded'"
    " join requests a on a.batch_id = p.id and a.line = b.source_line and a.state = 'succeeded'"
    " where c.purpose = 'explore' and (cast(:batch as text) is null or c.parent_id = :batch)"
    " and (cast(:since as timestamptz) is null or b.finished_at >= :since) order by c.created_at, c.id, b.line"
)


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
