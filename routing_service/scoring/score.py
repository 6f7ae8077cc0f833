"""Scoring: a range of a batch's lines gets its qualities, expected costs and ratios; and which ranges come next.

Costs expect as many tokens of an answer as a length model of the candidate predicts, where there is one, else its
prior; the batch's floor moves with what its lines' floors become.

The attempt is counted in a transaction of its own before the router runs, so that a router that kills its process
still runs out of attempts; then the range goes on unscored, with a constant gain: cheapest-first. The batch's row is
locked before its requests are written, as everywhere.

The queue of score tasks serves whoever came first. Were all ranges of a large batch in it at once, a small batch that
comes after it would wait until the last of them is scored. So a key has `score.ranges_at_once` in the queue, and each
that is done makes room for another: by priority, then the first that is open of every batch before anybody's second.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from routing_service.batches.pauses import pause_for_models
from routing_service.batches.router_choice import RouterSource, decide_router
from routing_service.db import Database, Unnest
from routing_service.errors import ClientError, ScoringError
from routing_service.events import Publisher, ScoreDue
from routing_service.models import Batch, BatchState, Request
from routing_service.money.pricing import PriceBook
from routing_service.openai_format.body import prompt_text
from routing_service.routers.registry import AUTO
from routing_service.scoring.length_model import LengthModel
from routing_service.scoring.lengths import LengthModels, Tokens, expected_tokens
from routing_service.scoring.ranking import Columns, allowed, expected_costs, first_steps, floors, rank
from routing_service.settings import Settings
from routing_service.upstream.outcome import mask

log = logging.getLogger(__name__)

UNSCORED_GAIN = 0.5  # any constant ranks by cost alone

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Claim:
    """A range to be scored, and what of its batch matters for it."""

    batch_id: str
    first_line: int
    last_line: int
    attempt: int
    router: str
    mode: str
    candidates: list[str]
    preview: bool  # shows intervals: wants the router's standard deviations


@dataclass(frozen=True, slots=True)
class _Scores:
    """Qualities of shape (n, m). `failure`: why no router gave them, None where one did or none was needed. `std` is
    None where nothing is known of it, or nobody wants it."""

    quality: Floats
    scored: bool
    std: Floats | None = None
    failure: str | None = None


def score(
    database: Database,
    settings: Settings,
    prices: PriceBook,
    routers: RouterSource,
    batch_id: str,
    first_line: int,
    lengths: LengthModels | None = None,
) -> bool:
    """Score the range that starts at `first_line`. True when the batch has no open range left and waits for its plan.

    `lengths`: the process's own, so that no length model is read twice.

    Idempotent; a batch that is not in progress is left alone. What the router raises goes on to the caller, until its
    last attempt: then the range is written unscored.
    """
    claim = _claim(database, settings, batch_id, first_line)
    if claim is not None:
        claim = _with_router(database, settings, routers, claim)
        rows, models = _read(database, claim, settings, lengths or LengthModels())
        prompts = [prompt_text(orjson.loads(row.body)) for row in rows]
        scores = _scores(claim, prompts, settings, routers)
        values = _values(claim, rows, scores, expected_tokens(models, prompts), settings, prices)
        with database.transaction() as session:
            _write(session, claim, values, scores.failure)
    with database.transaction() as session:
        return bool(session.scalar(_WAITS_FOR_PLAN, {"batch": batch_id}))


_CLAIM = text(
    "update score_ranges score_range set attempts = least(score_range.attempts + 1, 32767)"
    " from batches batch where batch.id = score_range.batch_id"
    " and batch.state = 'in_progress' and score_range.batch_id = :batch and score_range.first_line = :first"
    " and score_range.done_at is null"
    " returning score_range.batch_id, score_range.first_line, score_range.last_line, score_range.attempts,"
    " batch.router,"
    " coalesce(batch.options ->> 'mode', 'plan'), batch.candidates, batch.preview is not null"
)
_BEGIN_ANEW = text("update score_ranges set attempts = 1 where batch_id = :batch and first_line = :first")
_WAITS_FOR_PLAN = text(
    "select state = 'in_progress' and planned_at is null and not exists"
    " (select from score_ranges open_range where open_range.batch_id = batch.id"
    " and open_range.done_at is null) from batches batch where id = :batch"
)
_SCORED = Unnest(
    "scored",
    {
        "line": "int",
        "win_rate": "real",
        "ratio": "double precision",
        "quality": "text",  # an array, as text: unnest would take the rows of a matrix apart
        "expected_cost_nano": "text",
        "std": "text",
        "floor_nano": "bigint",
        "floor_change": "bigint",
    },
)
# The range is named besides the lines: whatever way the join is planned, no row beyond it is read.
_UPDATE = text(f"""
with moved as (
    update requests set state = 'scored', win_rate = scored.win_rate, ratio = scored.ratio,
           quality = cast(scored.quality as real[]), std = cast(scored.std as real[]),
           expected_cost_nano = cast(scored.expected_cost_nano as bigint[]), floor_nano = scored.floor_nano
    from {_SCORED}
    where requests.batch_id = :batch and requests.line between :first and :last and requests.line = scored.line
      and requests.state = 'queued'
    returning scored.floor_change
) select coalesce(sum(floor_change), 0)::bigint from moved
""")  # noqa: S608
_DONE = text("update score_ranges set done_at = now() where batch_id = :batch and first_line = :first")


def _claim(database: Database, settings: Settings, batch_id: str, first_line: int) -> _Claim | None:
    """Count an attempt at the range, if it is open and its batch in progress with models that are all there."""
    with database.transaction() as session:
        batch = session.get(Batch, batch_id)
        if batch is None or pause_for_models(session, batch_id, batch.candidates, settings):
            return None
        row = session.execute(_CLAIM, {"batch": batch_id, "first": first_line}).one_or_none()
    return _Claim(*row) if row else None


def _with_router(database: Database, settings: Settings, routers: RouterSource, claim: _Claim) -> _Claim:
    """The claim by the router that its batch is scored with, which `auto` becomes by its first range."""
    if claim.router != AUTO or len(claim.candidates) == 1:
        return claim
    may_load = claim.attempt <= settings.score.max_attempts
    claim = replace(claim, router=decide_router(database, routers, claim.batch_id, may_load=may_load))
    if may_load:
        return claim
    with database.transaction() as session:  # the attempts were another router's
        session.execute(_BEGIN_ANEW, {"batch": claim.batch_id, "first": claim.first_line})
    return replace(claim, attempt=1)


def _read(
    database: Database, claim: _Claim, settings: Settings, lengths: LengthModels
) -> tuple[Sequence[Any], dict[str, LengthModel]]:
    """The range's rows, and the length models of the models that may answer them."""
    columns = (Request.line, Request.body, Request.pinned, Request.max_cost_nano, Request.floor_nano)
    sizes = (Request.input_bytes, Request.output_cap, Request.choices, Request.answers)
    query = select(*columns, *sizes).where(
        Request.batch_id == claim.batch_id,
        Request.line.between(claim.first_line, claim.last_line),
        Request.twin_of.is_(None),
    )
    with database.transaction() as session:
        rows = session.execute(query.order_by(Request.line)).all()
        wanted = {*claim.candidates, *(row.pinned for row in rows)}
        models = {key: model for key, model in lengths.current(session, settings).items() if key in wanted}
    # What may have ended the process before is not asked again.
    return rows, models if claim.attempt <= settings.score.max_attempts else {}


def _scores(claim: _Claim, prompts: Sequence[str], settings: Settings, routers: RouterSource) -> _Scores:
    """The router's qualities, or constant ones. Threshold mode takes win rates as published."""
    constant = np.full((len(prompts), len(claim.candidates)), 0.5, dtype=np.float32)
    if not prompts or len(claim.candidates) == 1:
        return _Scores(constant, scored=False)
    constant[:, 1:] += UNSCORED_GAIN / 2
    if claim.attempt > settings.score.max_attempts:
        return _Scores(constant, scored=False, failure=f"The router {claim.router!r} ended the process that ran it.")
    try:
        router = routers.get(claim.router)
        if claim.mode != "threshold":
            quality, std = router.score(prompts, claim.candidates)
            return _Scores(quality, scored=True, std=std if claim.preview else None)
        rates = router.win_rates(prompts, claim.candidates[-1], claim.candidates[0])
        # The two-model view comes without one.
        spread = router.score(prompts, claim.candidates)[1] if claim.preview else None
        return _Scores(np.column_stack([constant[:, 0], rates]), scored=True, std=spread)
    except Exception as error:
        # Whatever a router fails at, the batch outlives it; before the last attempt the error is the caller's to log.
        if claim.attempt < settings.score.max_attempts:
            raise
        log.exception("batch %s: lines %d to %d go on unscored", claim.batch_id, claim.first_line, claim.last_line)
        return _Scores(constant, scored=False, failure=_failure(claim.router, error))


def _failure(router: str, error: Exception) -> str:
    """What a client is told. Only errors that are made for clients are quoted: others may name the operator's files."""
    if isinstance(error, ScoringError | ClientError):
        return mask(str(error), 300)
    return f"The router {router!r} failed ({type(error).__name__}); the score worker's log says more."


def _values(
    claim: _Claim, rows: Sequence[Any], scores: _Scores, tokens: Tokens, settings: Settings, prices: PriceBook
) -> dict[str, Any]:
    """What is written, by parameter of the update."""
    columns = Columns.of(rows)
    cost = expected_costs(columns, claim.candidates, settings, prices, tokens)
    before = np.array([row.floor_nano for row in rows], dtype=np.int64)
    floor = floors(columns, before, cost[:, 0], settings, prices, tokens)
    quality = scores.quality
    win_rate = quality[:, -1] if scores.scored else None
    may = allowed(columns, claim.candidates, settings, prices)
    answers = np.array([row.answers for row in rows], dtype=np.float64)
    step = rank(claim.mode, win_rate, quality * answers[:, None], cost, may)  # one cost, and a gain for each answer
    return {
        "batch": claim.batch_id,
        "first": claim.first_line,
        "last": claim.last_line,
    } | _SCORED.parameters(
        line=[row.line for row in rows],
        win_rate=[None] * len(rows) if win_rate is None else win_rate.tolist(),
        ratio=first_steps(step, columns, claim.candidates).tolist(),
        quality=_array_texts(quality.tolist()),
        std=[None] * len(rows) if scores.std is None else _array_texts(scores.std.tolist()),
        expected_cost_nano=_array_texts(cost.tolist()),
        floor_nano=floor.tolist(),
        floor_change=(floor - before).tolist(),
    )


def _array_texts(rows: list[list[Any]]) -> list[str]:
    return [f"{{{','.join(map(str, row))}}}" for row in rows]


def _write(session: Session, claim: _Claim, values: dict[str, Any], failure: str | None) -> None:
    batch = session.get_one(Batch, claim.batch_id, with_for_update={"key_share": True})
    if batch.state is not BatchState.IN_PROGRESS:
        return
    batch.floor_nano += session.execute(_UPDATE, values).scalar_one()
    session.execute(_DONE, {"batch": claim.batch_id, "first": claim.first_line})
    if failure is not None:
        batch.unscored = True
        batch.unscored_reason = batch.unscored_reason or failure


# Ranges are announced in the order of their lines, so the first open ones of a batch hold all that are announced.
_ANNOUNCE = text(
    "with open as (select batch.api_key_id, batch.priority, batch.created_at, open_range.batch_id,"
    " open_range.first_line, open_range.announced_at, open_range.place"
    " from batches batch cross join lateral (select open_range.*,"
    " row_number() over (order by open_range.first_line) as place from (select"
    " batch_id, first_line, announced_at from score_ranges where batch_id = batch.id and done_at is null"
    " order by first_line limit :most) open_range) open_range"
    " where batch.state = 'in_progress' and batch.planned_at is null and coalesce(batch.paused, 'client') = 'client'"
    " and (cast(:batch as text) is null or batch.api_key_id = (select api_key_id from batches where id = :batch))),"
    " turns as (select batch_id, first_line, announced_at, row_number() over (partition by api_key_id"
    " order by announced_at is null, priority desc, place, created_at, batch_id) as turn from open),"
    " held as (select score_range.batch_id, score_range.first_line from score_ranges score_range"
    " join turns turn using (batch_id, first_line)"
    " where turn.turn <= :most and turn.announced_at is null and score_range.announced_at is null"
    " for update of score_range skip locked)"
    " update score_ranges score_range set announced_at = now() from held where score_range.batch_id = held.batch_id"
    " and score_range.first_line = held.first_line returning score_range.batch_id, score_range.first_line"
)


def announce_ranges(database: Database, settings: Settings, publisher: Publisher, batch_id: str | None = None) -> None:
    """Announce what may be scored next of the key whose batch that is; of all keys where none is named.

    What is announced is marked first: should the message be lost, the sweep announces it again.
    """
    with database.transaction() as session:
        ranges = session.execute(_ANNOUNCE, {"batch": batch_id, "most": settings.score.ranges_at_once}).all()
    for owner, first_line in sorted((row.batch_id, row.first_line) for row in ranges):
        publisher.publish(ScoreDue(owner, first_line))
