"""Two routers side by side on requests that were routed: which would have gone elsewhere, and at what cost.

The newest lines of completed batches are scored by both. Each batch is cut again by its own mode: where it went by
money, at what its lines were expected to cost where they were sent, so that both routers spend the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import select, text

from routing_service.db import Database
from routing_service.models import Batch, BatchPurpose, BatchState, Request
from routing_service.money.pricing import PriceBook, price_book
from routing_service.openai_format.body import prompt_text
from routing_service.planning import NEVER, Floats, Ints, Ranking, steps
from routing_service.plans.plan import batch_damping
from routing_service.plans.stored import cut_within
from routing_service.routers.registry import Router
from routing_service.scoring.ranking import BY_COST, Columns, allowed, rank
from routing_service.settings import Settings

Small = npt.NDArray[np.int16]

PROMPTS_AT_ONCE = 256
BATCHES_AT_MOST = 1000  # that are looked at


@dataclass(slots=True)
class Difference:
    """Of `requests` in `batches`, those that B sends to another model than A does, and to a dearer one. `cost_nano`:
    what answers are expected to cost by A and by B; `models`: requests that each model gets by A and by B."""

    requests: int = 0
    batches: int = 0
    elsewhere: int = 0
    dearer: int = 0
    cost_nano: tuple[int, int] = (0, 0)
    models: dict[str, tuple[int, int]] = field(default_factory=dict)


def compare(
    database: Database,
    settings: Settings,
    routers: tuple[Router, Router],
    last: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Difference:
    """The difference on the last so many routed requests, or as many as there are; `advance` is told of each chunk.

    Batches whose candidates are not all configured any more are left out, as are pinned lines and duplicates. What a
    router raises is the caller's.
    """
    difference = Difference()
    prices = price_book(settings)
    for batch, rows in _routed(database, settings, last):
        scores = _scores(database, batch, [row.line for row in rows], routers, advance)
        cost, chosen = _cost(rows), [_models(batch, rows, score, settings, prices) for score in scores]
        _add(difference, batch.candidates, cost, *chosen)
    return difference


def _routed(database: Database, settings: Settings, last: int) -> Iterator[tuple[Batch, Sequence[Any]]]:
    """The newest completed batches with a choice of models, and the rows of each that the plan decided."""
    query = select(Batch).where(Batch.state == BatchState.COMPLETED, Batch.purpose == BatchPurpose.CLIENT)
    with database.transaction() as session:
        batches = session.scalars(query.order_by(Batch.completed_at.desc()).limit(BATCHES_AT_MOST)).all()
    for batch in batches:
        if last <= 0:
            return
        if len(batch.candidates) < 2 or not set(batch.candidates) <= set(settings.models):
            continue
        with database.transaction() as session:
            values = {"id": batch.id, "models": batch.candidates, "last": last}
            rows = session.execute(_ROUTED, values).all()
        last -= len(rows)
        if rows:
            yield batch, rows


_ROUTED = text(
    "select line, input_bytes, output_cap, choices, max_cost_nano, answers, expected_cost_nano, null as pinned,"
    " array_position(cast(:models as text[]), model) - 1 as went_to from requests"
    " where batch_id = :id and pinned is null and twin_of is null and model = any(:models)"
    " and cardinality(expected_cost_nano) = cardinality(cast(:models as text[])) order by line limit :last"
)


def _scores(
    database: Database,
    batch: Batch,
    lines: list[int],
    routers: tuple[Router, Router],
    advance: Callable[[int], None],
) -> list[Floats]:
    """The qualities by each router, shape (n, m); of a batch by threshold its win rates stand in the last column."""
    parts: list[list[Floats]] = [[], []]
    for start in range(0, len(lines), PROMPTS_AT_ONCE):
        some = lines[start : start + PROMPTS_AT_ONCE]
        query = select(Request.body).where(Request.batch_id == batch.id, Request.line.in_(some)).order_by(Request.line)
        with database.transaction() as session:
            prompts = [prompt_text(orjson.loads(body)) for body in session.scalars(query)]
        for part, router in zip(parts, routers, strict=True):
            quality = router.score(prompts, batch.candidates)[0].astype(np.float64)
            if batch.options.get("mode") == "threshold":
                quality[:, -1] = router.win_rates(prompts, batch.candidates[-1], batch.candidates[0])
            part.append(quality)
        advance(len(some))
    return [np.concatenate(part) for part in parts]


def _cost(rows: Sequence[Any]) -> Ints:
    return np.array([row.expected_cost_nano for row in rows], dtype=np.int64)


def _models(batch: Batch, rows: Sequence[Any], score: Floats, settings: Settings, prices: PriceBook) -> Small:
    """The number of the candidate that each row would have gone to by these scores, shape (n,)."""
    mode, cost, columns = batch.options.get("mode", "plan"), _cost(rows), Columns.of(rows)
    may = allowed(columns, batch.candidates, settings, prices)
    quality = score * np.array([row.answers for row in rows])[:, None]
    if mode in BY_COST:
        step = steps(cost, np.where(may, quality, NEVER), batch_damping(batch))
    else:
        step = rank(mode, score[:, -1], quality, cost, may)
    lines = np.array([row.line for row in rows])
    spent = int(cost[np.arange(len(rows)), [row.went_to for row in rows]].sum())
    return cut_within(Ranking.of(cost, quality, lines, step), spent, batch).model


def _add(difference: Difference, candidates: Sequence[str], cost: Ints, a: Small, b: Small) -> None:
    each = np.arange(len(cost))
    difference.requests += len(cost)
    difference.batches += 1
    difference.elsewhere += int((a != b).sum())
    difference.dearer += int((b > a).sum())
    difference.cost_nano = (
        difference.cost_nano[0] + _total(cost[each, a]),
        difference.cost_nano[1] + _total(cost[each, b]),
    )
    for number, model in enumerate(candidates):
        before = difference.models.get(model, (0, 0))
        difference.models[model] = (before[0] + int((a == number).sum()), before[1] + int((b == number).sum()))


def _total(cost: npt.NDArray[np.int64]) -> int:
    return int(cost.sum())
