"""Output lengths in the service: fitted now and then from settled answers, used when a batch is read and scored.

A model has a fit of its own, by its key and its upstream's name for it: tokens of others say nothing about it. Until
LEAST_ROWS of its answers are settled, the configured prior (`expected_output_tokens`) stands in. A fit is replaced once
half as many answers are new as it was made of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from routing_service.db import Database, try_lock
from routing_service.errors import ArtifactError
from routing_service.models import FittedLengths
from routing_service.openai_format.body import prompt_text
from routing_service.scoring.length_model import LEAST_ROWS, LengthModel, fit, prompt_features
from routing_service.settings import Settings

log = logging.getLogger(__name__)

MOST_ROWS = 20_000
RECENT_ATTEMPTS = 500_000  # no answer older than so many attempts is looked at: bounds the work, needs no index
NEW_SHARE = 0.5  # of a fit's rows: so many new answers make another fit worthwhile
ROWS_AT_ONCE = 64  # a body may have a megabyte
PROMPTS_AT_ONCE = 1024
CHARACTERS_AT_ONCE = 4_000_000

Tokens = Mapping[str, npt.NDArray[np.float64]]  # expected tokens of a choice, by the model's key

_IN_FORCE = select(FittedLengths.id, FittedLengths.model, FittedLengths.upstream_model)


class LengthModels:
    """The fits in force, each read once in a process. One a process and database."""

    def __init__(self) -> None:
        self._kept: dict[int, LengthModel | None] = {}

    def current(self, session: Session, settings: Settings) -> dict[str, LengthModel]:
        """The length models of the configured models that have one, by key."""
        ids = {row.id: row.model for row in session.execute(_IN_FORCE) if _is_configured(row, settings)}
        self._kept = {number: self._kept[number] if number in self._kept else _read(session, number) for number in ids}
        return {ids[number]: model for number, model in self._kept.items() if model is not None}


def _is_configured(row: Any, settings: Settings) -> bool:
    return row.model in settings.models and settings.models[row.model].name == row.upstream_model


def _read(session: Session, number: int) -> LengthModel | None:
    data = session.scalar(select(FittedLengths.data).where(FittedLengths.id == number))
    try:
        return None if data is None else LengthModel.from_bytes(data)
    except ArtifactError:
        log.exception("fit %d of output lengths is not used", number)
        return None


def expected_tokens(models: Mapping[str, LengthModel], prompts: Sequence[str]) -> Tokens:
    """What each of the models will probably answer to each prompt. A model whose prediction fails is left to its prior:
    no batch waits for it."""
    try:
        raw = prompt_features(prompts) if models else None
        return {} if raw is None else {key: model.mean(raw) for key, model in models.items()}
    except Exception:
        log.exception("output lengths of %d prompts cannot be predicted", len(prompts))
        return {}


def without_fit(session: Session, settings: Settings, models: Iterable[str]) -> list[str]:
    """Those of the models whose output lengths are nothing but the configured prior."""
    fitted = {row.model for row in session.execute(_IN_FORCE) if _is_configured(row, settings)}
    return [model for model in models if model not in fitted]


def with_learned_priors(session: Session, settings: Settings) -> Settings:
    """The settings with every fitted model's `expected_output_tokens` as its answers had them on average.

    For what must be quick: a file is validated by it, line by line."""
    query = select(FittedLengths.model, FittedLengths.upstream_model, FittedLengths.metrics)
    means = {r.model: r.metrics["mean_tokens"] for r in session.execute(query) if _is_configured(r, settings)}
    learned = {
        key: settings.models[key].model_copy(update={"expected_output_tokens": max(1, math.ceil(mean))})
        for key, mean in means.items()
    }
    return settings.model_copy(update={"models": {**settings.models, **learned}})


def fit_lengths(database: Database, settings: Settings) -> list[str]:
    """Fit the models that have enough new answers; the keys of those that were. One runner at a time.

    A fit that fails is logged, and the one in force stays.
    """
    fitted = []
    for key in settings.models:
        try:
            with database.transaction() as session:
                if try_lock(session, "fit_lengths") and _fit(session, key, settings.models[key].name):
                    fitted.append(key)
        except Exception:
            log.exception("the output lengths of model %s cannot be fitted", key)
    return fitted


# The newest attempts by id: what is as old as that is no guide to the next answer.
_ANSWERS = """
from attempts attempt where attempt.id > (select coalesce(max(id), 0) - :recent from attempts) and attempt.id > :after
and attempt.model = :model and attempt.upstream_model = :upstream and attempt.state = 'succeeded'
    and attempt.output_tokens is not null
and attempt.batch_id is not null
and not exists (select from batches batch where batch.id = attempt.batch_id and batch.purpose = 'judge')
"""
_COUNT = text(f"select count(*), max(attempt.id) {_ANSWERS}")
_ROWS = text(
    "select request.body, sample.output_tokens::float8 / request.choices as tokens from requests request join"  # noqa: S608
    f" (select attempt.id, attempt.batch_id, attempt.line, attempt.output_tokens {_ANSWERS}"
    " order by attempt.id desc limit :most) sample"
    " on request.batch_id = sample.batch_id and request.line = sample.line order by sample.id"
)


def _fit(session: Session, key: str, upstream: str) -> bool:
    mine = (FittedLengths.model == key, FittedLengths.upstream_model == upstream)
    last = session.execute(select(FittedLengths.rows, FittedLengths.last_attempt_id).where(*mine)).one_or_none()
    wanted = {"model": key, "upstream": upstream, "recent": RECENT_ATTEMPTS, "after": 0}
    count, newest = session.execute(_COUNT, wanted | ({"after": last.last_attempt_id} if last else {})).one()
    if count < (NEW_SHARE * last.rows if last else LEAST_ROWS):
        return False
    raw, tokens = _read_answers(session, wanted)
    if len(raw) < LEAST_ROWS:
        return False
    model = fit(raw, tokens)
    session.execute(delete(FittedLengths).where(*mine))
    session.add(
        FittedLengths(
            model=key,
            upstream_model=upstream,
            data=model.to_bytes(),
            rows=len(raw),
            last_attempt_id=newest,
            metrics=model.metrics,
        )
    )
    return True


def _read_answers(session: Session, wanted: dict[str, Any]) -> tuple[npt.NDArray[np.float64], list[float]]:
    """What the prompts' lengths are predicted from, and the tokens of a choice of each answer. Texts are let go as soon
    as they are read: 20,000 of them could be gigabytes."""
    query = _ROWS.execution_options(yield_per=ROWS_AT_ONCE)
    tokens: list[float] = []
    with session.execute(query, wanted | {"most": MOST_ROWS}) as rows:
        parts = [prompt_features(prompts) for prompts in _together(rows, tokens)]
    return (np.concatenate(parts) if parts else prompt_features([])), tokens


def _together(rows: Any, tokens: list[float]) -> Iterator[list[str]]:
    prompts: list[str] = []
    size = 0
    for body, count in rows:
        prompts.append(prompt_text(orjson.loads(body)))
        tokens.append(count)
        size += len(prompts[-1])
        if len(prompts) == PROMPTS_AT_ONCE or size > CHARACTERS_AT_ONCE:
            yield prompts
            prompts, size = [], 0
    if prompts:
        yield prompts
