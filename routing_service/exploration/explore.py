"""Exploring a batch that has completed: a random sample of its lines is asked of the other model, too.

Only of lines that its plan has sent somewhere, and that were answered there by a call of their own. What the cheapest
candidate answered, or one in the middle, goes to the dearest; what the dearest answered, to the cheapest.

`draw` chooses them. It is pure, and the same for the same seed. Every line that could be drawn has the same chance, and
they come in random order: should money run out before the end, what was asked is still a random sample. How many are
drawn follows from all of them together, never from those that happen to be drawn, so the chance is known: it is the
propensity that is stored with the request.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from routing_service.batches.create import window_of
from routing_service.batches.exploration_budget import explored_share
from routing_service.db import Database
from routing_service.exploration.companion import CompanionLine, add_companion
from routing_service.models import Batch, BatchPurpose, BatchState, Request
from routing_service.money.pricing import PriceBook
from routing_service.planning import Ints
from routing_service.scoring.ranking import Columns, expected_costs
from routing_service.settings import Settings

ROWS_AT_ONCE = 10_000
MOST_PAIRS = 20_000  # of a batch
MOST_BYTES = 256_000_000  # of prompts that are read at once
LARGEST_PART = 0.5  # of the money: a line that could cost more is not drawn from
DEARER = 1.25  # what answers may cost over what is expected before money is short


def explore(database: Database, settings: Settings, prices: PriceBook, batch_id: str) -> str | None:
    """Write the companion that explores a completed batch, if it is to be explored and has not been yet.

    Returns its id, or None where there is nothing to ask. Safe to run at any time, any number of times; after it, ring
    the pump.
    """
    with database.transaction() as session:
        query = select(Batch).where(
            Batch.id == batch_id,
            Batch.state == BatchState.COMPLETED,
            Batch.explore_nano > 0,
            Batch.explored_at.is_(None),
        )
        batch = session.scalar(query.with_for_update(key_share=True))
        if batch is None:
            return None
        batch.explored_at = session.scalars(select(func.now())).one()
        if not {batch.candidates[0], batch.candidates[-1]} <= settings.models.keys():
            return None
        population = _population(session, batch, settings, prices)
        share = explored_share(batch.options, batch.candidates)
        sample = draw(population, share, batch.explore_nano, _seed(batch_id))
        if not sample.lines:
            return None
        return add_companion(
            session,
            settings,
            prices,
            purpose=BatchPurpose.EXPLORE,
            api_key_id=batch.api_key_id,
            parent_id=batch.id,
            lines=_calls(session, batch, sample),
            budget_nano=batch.explore_nano,
            window=window_of(batch.completion_window),
        )


def _seed(batch_id: str) -> int:
    return int.from_bytes(hashlib.sha256(batch_id.encode()).digest()[:8], "big")


def _other(batch: Batch, model: str | None) -> str:
    return batch.candidates[0] if model == batch.candidates[-1] else batch.candidates[-1]


_LINES = text("""
select line, model, input_bytes, output_cap, choices, max_cost_nano, cost_nano, pinned,
       coalesce(expected_cost_nano[case when model = :dearest then 1 else :candidates end], -1) as expected
from requests where batch_id = :id and state = 'succeeded' and twin_of is null and pinned is null
  and reason in ('plan', 'share', 'threshold', 'unscored', 'budget') and model = any(:models) order by line
""")


def _population(session: Session, batch: Batch, settings: Settings, prices: PriceBook) -> Population:
    values = {
        "id": batch.id,
        "models": batch.candidates,
        "dearest": batch.candidates[-1],
        "candidates": len(batch.candidates),
    }
    result = session.execute(_LINES.execution_options(yield_per=ROWS_AT_ONCE), values)
    parts = [_part(batch, list(rows), settings, prices) for rows in result.partitions()]
    line, expected, worst, size = np.concatenate([np.zeros((4, 0), dtype=np.int64), *parts], axis=1)
    return Population(line, expected, worst, size)


def _part(batch: Batch, rows: list[Any], settings: Settings, prices: PriceBook) -> Ints:
    """Of the lines that may be asked again: line, expected and worst cost of the other model, bytes; shape (4, n)."""
    columns = Columns.of(rows)
    strong = np.array([row.model == batch.candidates[-1] for row in rows])
    ends = (batch.candidates[0], batch.candidates[-1])
    worst = np.where(strong, *(prices.worst_cases(key, settings.models[key], *columns.sizes) for key in ends))
    prior = expected_costs(columns, ends, settings, prices)
    predicted = np.array([row.expected for row in rows], dtype=np.int64)
    factors = batch.cost_factors or [1.0] * len(batch.candidates)
    corrected = predicted * np.where(strong, factors[0], factors[-1])
    expected = np.where(predicted < 0, np.where(strong, prior[:, 0], prior[:, 1]), corrected).astype(np.int64)
    line = np.array([row.line for row in rows], dtype=np.int64)
    cost = np.array([row.cost_nano for row in rows], dtype=np.int64)
    may = worst <= columns.max_cost_nano - cost  # what a client caps holds for all calls of its line
    return np.stack([line, expected, worst, columns.input_bytes])[:, may]


def _calls(session: Session, batch: Batch, sample: Sample) -> list[CompanionLine]:
    columns = (Request.line, Request.custom_id, Request.body, Request.model, Request.max_cost_nano, Request.cost_nano)
    query = select(*columns).where(Request.batch_id == batch.id, Request.line.in_(sample.lines))
    rows = {row.line: row for row in session.execute(query)}
    return [
        CompanionLine(
            custom_id=row.custom_id,
            body=orjson.loads(row.body),
            model=_other(batch, row.model),
            source_line=row.line,
            propensity=sample.propensity,
            max_cost_nano=None if row.max_cost_nano is None else row.max_cost_nano - row.cost_nano,
        )
        for row in (rows[line] for line in sample.lines)
    ]


@dataclass(frozen=True, slots=True)
class Population:
    """The lines that may be drawn, shape (n,) each. Costs are nano-dollars, of the model that is to be asked: what it
    will probably take, and what it takes at the worst."""

    line: Ints
    expected: Ints
    worst: Ints
    size: Ints  # bytes of the prompt

    def __len__(self) -> int:
        return len(self.line)

    def where(self, which: npt.NDArray[np.bool_]) -> Population:
        return Population(self.line[which], self.expected[which], self.worst[which], self.size[which])


@dataclass(frozen=True, slots=True)
class Sample:
    """`lines`: in the order in which they are asked. `propensity`: the chance that each of `of` lines had."""

    lines: list[int]
    propensity: float
    of: int


def draw(population: Population, share: float, money_nano: int, seed: int) -> Sample:
    """Draw that share of the lines, or as many as the money will do for, uniformly and without replacement.

    The number is rounded up or down at random, so that batches too small for a whole line are not left out.
    """
    could = population.where(population.worst <= LARGEST_PART * money_nano)
    n = len(could)
    wanted = min(share * n, _affordable(could, money_nano), MOST_PAIRS) if n else 0.0
    if wanted <= 0:
        return Sample([], 0.0, n)
    rng = np.random.default_rng(seed)
    count = min(n, int(wanted + rng.random()))
    return Sample(rng.choice(could.line, count, replace=False).tolist(), wanted / n, n)


def _affordable(could: Population, money_nano: int) -> float:
    """For so many lines, whichever are drawn, the money will probably do: expected costs with some to spare, twice
    their sum's standard deviation, and a worst case to reserve for the last one."""
    spare = float(money_nano - could.worst.max())
    mean, deviation = DEARER * could.expected.mean(), 2 * could.expected.std()
    root = (math.sqrt(deviation**2 + 4 * mean * spare) - deviation) / (2 * mean) if mean > 0 else math.inf
    return min(root**2, MOST_BYTES / max(1.0, float(could.size.mean())))
