"""A batch that has ended, with given answers, and what of it is kept in the tables of learning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.dispatch.finish import finish
from routing_service.exploration.companion import CompanionLine, add_companion
from routing_service.models import Batch, BatchPurpose, Comparison
from routing_service.money.pricing import price_book
from routing_service.settings import Settings
from tests.support.planned import Planned, make_planned_batch


@dataclass(frozen=True)
class Said:
    """A request's prompt, who answered it and what; without a model it was unaffordable."""

    prompt: str
    model: str | None = "weak"
    answer: str = ""


def completion(answer: str) -> str:
    """The upstream's body with that text."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]})


def answered_batch(database: Database, said: Sequence[Said]) -> str:
    """The id of a completed batch; its custom_ids are c-1, c-2 and so on."""
    with database.transaction() as session:
        batch_id = make_planned_batch(session, [Planned(prompt=each.prompt) for each in said])
        unanswered = "update requests set state = 'unaffordable', finished_at = now(), floor_nano = 0"
        session.execute(text(f"{unanswered} where batch_id = :id"), {"id": batch_id})
        answer = "update requests set state = 'succeeded', model = :model, response = :response"
        for line, each in enumerate(said, 1):
            if each.model is not None:
                values = {"id": batch_id, "line": line, "model": each.model, "response": completion(each.answer)}
                session.execute(text(f"{answer} where batch_id = :id and line = :line"), values)
        ended = sum(each.model is not None for each in said)
        session.execute(
            text(
                "update batches set state = 'completed', completed_at = now(), succeeded = :n, failed = total - :n,"
                " floor_nano = 0 where id = :id"
            ),
            {"id": batch_id, "n": ended},
        )
    return batch_id


def paired_batch(database: Database, settings: Settings, pairs: Sequence[tuple[str, str, str]]) -> str:
    """The id of a completed batch whose requests (prompt, strong answer, weak answer) both models have answered."""
    batch_id = answered_batch(database, [Said(prompt, "weak", weak) for prompt, _, weak in pairs])
    with database.transaction() as session:
        batch = session.get_one(Batch, batch_id)
        body = {"model": "routebatch-auto", "messages": [{"role": "user", "content": "x"}]}
        lines = [CompanionLine(f"c-{n}", body, "strong", n) for n in range(1, len(pairs) + 1)]
        explored = add_companion(
            session,
            settings,
            price_book(settings),
            purpose=BatchPurpose.EXPLORE,
            api_key_id=batch.api_key_id,
            parent_id=batch_id,
            lines=lines,
            budget_nano=0,
            window=timedelta(hours=1),
        )
    reply(database, explored, [strong for _, strong, _ in pairs])
    return batch_id


def reply(database: Database, companion_id: str, answers: Sequence[str | None]) -> None:
    """Answer the companion's lines without a call, and end it; None leaves a line unaffordable."""
    with database.transaction() as session:
        for line, answer in enumerate(answers, 1):
            values = {"id": companion_id, "line": line, "state": "unaffordable", "response": None}
            if answer is not None:
                values |= {"state": "succeeded", "response": completion(answer)}
            session.execute(
                text(
                    "update requests set state = cast(:state as request_state), response = :response, model = pinned,"
                    " finished_at = now() where batch_id = :id and line = :line"
                ),
                values,
            )
        answered = sum(answer is not None for answer in answers)
        counts = {"id": companion_id, "n": answered}
        session.execute(text("update batches set succeeded = :n, failed = total - :n where id = :id"), counts)
    assert finish(database, companion_id)


def comparisons_of(database: Database) -> list[tuple[Any, ...]]:
    """(source, line, prompt, model_a, model_b, outcome) of all comparisons, by line."""
    columns = (Comparison.source, Comparison.line, Comparison.prompt, Comparison.model_a, Comparison.model_b)
    with database.transaction() as session:
        rows = session.execute(select(*columns, Comparison.outcome).order_by(Comparison.source, Comparison.line))
        return [tuple(row) for row in rows]
