"""What a vote on an answer says of two models, or of one. Pure: answers in, a verdict out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import orjson

from routing_service.settings import ModelSettings

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
        found = [choice["message"]["content"] for choice in choices]
    except (ValueError, KeyError, TypeError):
        return []
    return [content for content in found if isinstance(content, str)]
