"""Feedback: what a client says of the answer to one of its requests. One vote a request, the last one counts.

A vote becomes a comparison only where it can tell two models apart: where the other model has answered the same call
for the same key too, or where the client names the model it prefers and only one other could be meant. Else it is kept
as a rating of the answer, from 1 to 5. Which of two models a vote praises has no say in that: praise of one must not
become a comparison more often than praise of the other. `verdict` decides that, without a database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import orjson
from sqlalchemy import ColumnElement, delete, func, insert, literal_column, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased

from routing_service.db import Database
from routing_service.errors import ConflictError, NotFoundError
from routing_service.models import Batch, BatchPurpose, Comparison, Feedback, Rating, Request, RequestState
from routing_service.models.base import ComparisonSource
from routing_service.openai_format.body import call_digest, prompt_text
from routing_service.settings import ModelSettings, Settings


@dataclass(frozen=True, slots=True)
class RequestName:
    """A request as a client knows it: its batch, and either its line or its custom_id."""

    batch_id: str
    line: int | None = None
    custom_id: str | None = None


class _Answered(NamedTuple):
    batch_id: str
    line: int
    custom_id: str
    body: str
    state: RequestState
    model: str
    response: str
    candidates: list[str]


def give_feedback(
    database: Database, settings: Settings, api_key_id: str, name: RequestName, vote: Vote
) -> dict[str, object]:
    """Keep a vote on the key's own request, in the stead of an earlier one; returns what was made of it.

    NotFoundError if there is no such request of this key, ConflictError if it is not answered.
    """
    with database.transaction() as session:
        request = _find(session, api_key_id, name)
        replaced = _keep(session, request, vote)
        body = orjson.loads(request.body)
        others = _others(session, api_key_id, request.model, call_digest(body))
        judgement = verdict(vote, Answer(request.model, request.response), others, request.candidates, settings.models)
        _write(session, api_key_id, request, prompt_text(body), judgement)
    return _object(request, judgement, replaced)


def _find(session: Session, api_key_id: str, name: RequestName) -> _Answered:
    first = aliased(Request)  # of a duplicate, the line that was asked in its stead
    row = session.execute(
        select(
            Request.batch_id,
            Request.line,
            Request.custom_id,
            Request.body,
            Request.state,
            Request.model,
            func.coalesce(Request.response, first.response).label("response"),
            Batch.candidates,
        )
        .join(Batch, Batch.id == Request.batch_id)
        .outerjoin(first, (first.batch_id == Request.batch_id) & (first.line == Request.twin_of))
        .where(
            Batch.api_key_id == api_key_id,
            Batch.purpose == BatchPurpose.CLIENT,
            Request.batch_id == name.batch_id,
            Request.line == name.line if name.line is not None else Request.custom_id == name.custom_id,
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("No such request is known. Name it by the `id` of its line in the output file.")
    if row.state is not RequestState.SUCCEEDED:
        raise ConflictError(f"This request has no answer to judge: it is {row.state}.", code="not_answered")
    return _Answered._make(row)


def _keep(session: Session, request: _Answered, vote: Vote) -> bool:
    """Write the vote down; whether there was one before. Votes on a request wait for each other here."""
    said = {"rating": vote.rating, "score": vote.score, "preferred": vote.preferred}
    row = {"batch_id": request.batch_id, "line": request.line, **said}
    statement = upsert(Feedback).values(row)
    statement = statement.on_conflict_do_update(
        index_elements=[Feedback.batch_id, Feedback.line], set_={**said, "created_at": func.now()}
    )
    replaced: ColumnElement[bool] = literal_column("xmax <> 0")  # Postgres's mark of a row that was there
    return bool(session.scalars(statement.returning(replaced)).one())


def _others(session: Session, api_key_id: str, model: str, digest: bytes) -> list[Answer]:
    """The newest answer of each other model to the same call, in batches of the key.

    They are found as `reuse` finds them: among batches that said `dedupe: "key"`, while answers are kept for it.
    """
    rows = session.execute(
        select(Request.model, Request.response)
        .join(Batch, Batch.id == Request.batch_id)
        .where(
            Batch.api_key_id == api_key_id,
            Request.call_digest == digest,
            Request.state == literal_column("'succeeded'"),  # as the index says it, whatever plan is kept
            Request.model != model,
        )
        .ext(distinct_on(Request.model))
        .order_by(Request.model, Request.finished_at.desc())
    )
    return [Answer(name, response) for name, response in rows if name is not None and response is not None]


def _write(session: Session, api_key_id: str, request: _Answered, prompt: str, judgement: Verdict) -> None:
    """Replace what was made of an earlier vote by what this one says."""
    digest = sha256(orjson.dumps(["feedback", request.batch_id, request.line])).digest()
    for table in (Comparison, Rating):
        session.execute(delete(table).where(table.digest == digest))
    about = {
        "digest": digest,
        "source": ComparisonSource.FEEDBACK,
        "prompt": prompt,
        "batch_id": request.batch_id,
        "line": request.line,
        "api_key_id": api_key_id,
    }
    if judgement.other is None:
        session.execute(insert(Rating).values(model=request.model, score=judgement.score, **about))
    else:
        pair = {"model_a": request.model, "model_b": judgement.other, "outcome": judgement.outcome}
        session.execute(insert(Comparison).values(**pair, **about))


def _object(request: _Answered, judgement: Verdict, replaced: bool) -> dict[str, object]:
    compared = None if judgement.other is None else [request.model, judgement.other]
    return {
        "id": f"batch_req_{request.batch_id.removeprefix('batch_')}_{request.line}",
        "object": "feedback",
        "batch_id": request.batch_id,
        "custom_id": request.custom_id,
        "model": request.model,
        "kept_as": "rating" if compared is None else "comparison",
        "score": judgement.score if compared is None else None,
        "models": compared,
        "outcome": None if compared is None else judgement.outcome,
        "replaced": replaced,
    }


BEST, WORST = 5, 1


@dataclass(frozen=True, slots=True)
class Vote:
    """One of: thumbs (1 or -1), a score of 1 to 5, or what is preferred: a model, or a text."""

    rating: int | None = None
    score: int | None = None
    preferred: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answered, and the upstream's body as JSON text."""

    model: str
    response: str

    def says(self, text: str) -> bool:
        """Whether one of its choices is this text, but for space around it."""
        return text.strip() in {content.strip() for content in _contents(self.response)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome`: how much the answer is preferred over that of `other`, in [0, 1]. Where no `other` is known, `score`
    (1 to 5) is all that can be said."""

    score: int
    outcome: float
    other: str | None


def verdict(
    vote: Vote,
    answer: Answer,
    others: Sequence[Answer],
    candidates: Collection[str],
    models: Mapping[str, ModelSettings],
) -> Verdict:
    """`others`: answers of other models to the same call; `candidates`: the models its batch could have gone to;
    `models`: those that are configured, which a client may name by their key or by their upstream's name."""
    known = [other.model for other in others]
    if vote.preferred is None:
        score = vote.score if vote.score is not None else BEST if vote.rating == 1 else WORST
        return Verdict(score, (score - WORST) / (BEST - WORST), _first(known))
    if (named := _model(vote.preferred, [answer.model, *candidates, *models], models)) is not None:
        won = named == answer.model
        pair = set(candidates) - {answer.model} if answer.model in candidates else set()
        meant = [*pair] if len(pair) == 1 else known
        if not won:
            meant = [model for model in meant if model == named]
        return _of(won, _first(meant))
    if answer.says(vote.preferred):
        return _of(True, _first(known))
    return _of(False, next((other.model for other in others if other.says(vote.preferred)), None))


def _of(won: bool, other: str | None) -> Verdict:
    return Verdict(BEST if won else WORST, float(won), other)


def _first(models: Sequence[str]) -> str | None:
    return models[0] if models else None


def _model(name: str, keys: Sequence[str], models: Mapping[str, ModelSettings]) -> str | None:
    if name in keys:
        return name
    return next((key for key in keys if key in models and models[key].name == name), None)


def _contents(response: str) -> list[str]:
    """The texts of an upstream's choices. What is no chat completion has none."""
    try:
        choices = orjson.loads(response)["choices"]
        contents = [choice["message"]["content"] for choice in choices]
    except (ValueError, KeyError, TypeError):
        return []
    return [content for content in contents if isinstance(content, str)]
