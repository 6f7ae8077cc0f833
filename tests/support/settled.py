"""Makers of settled answers, and the output lengths learned from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import select, text

from routing_service.db import Database, Unnest
from routing_service.models import FittedLengths
from tests.support.planned import Planned, make_planned_batch

ANSWERS = Unnest("answer", {"line": "int", "tokens": "int"})


def question(n: int) -> str:
    """Every other one asks for a long answer."""
    return f"Is {n} even?" if n % 2 else f"List {n} reasons, each with an example, why item {n} matters."


def length(n: int, model: str = "weak") -> int:
    noise = np.random.default_rng([n, model == "strong"]).lognormal(0, 0.3)
    return max(1, int((5 if n % 2 else 80) * noise * (2 if model == "strong" else 1)))


def answer(
    database: Database,
    lines: Sequence[int],
    model: str = "weak",
    tokens: Callable[[int], int | None] = length,
    choices: int = 1,
) -> None:
    """Settled answers of the model to the questions of these numbers."""
    with database.transaction() as session:
        batch_id = make_planned_batch(session, [Planned(prompt=question(n)) for n in lines])
        session.flush()
        values: dict[str, Any] = {"id": batch_id, "model": model, "upstream": f"sandbox-{model}", "choices": choices}
        session.execute(
            text(
                "update requests set state = 'succeeded', finished_at = now(), response = '{}', choices = :choices"
                " where batch_id = :id"
            ),
            values,
        )
        session.execute(
            text(
                "insert into attempts (batch_id, line, number, model, upstream_model, input_price, cached_input_price,"
                " output_price, reserved_nano, state, ended_at, output_tokens) select :id, line, 1, :model, :upstream,"
                f" 0, 0, 0, 0, 'succeeded', now(), tokens from {ANSWERS}"
            ),
            values | ANSWERS.parameters(line=range(1, len(lines) + 1), tokens=[tokens(n) for n in lines]),
        )


def fits(database: Database) -> dict[str, FittedLengths]:
    with database.transaction() as session:
        return {row.model: row for row in session.scalars(select(FittedLengths))}
