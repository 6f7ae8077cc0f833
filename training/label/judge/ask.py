"""Asking the judge: questions about a batch's answers become the lines of a companion batch.

So a judge's calls are claimed, reserved, sent, retried and settled as any request's, under a budget of their own, and
on the budgets of the key `judge`. Pairs are asked in both orders, one right after the other. Their order is drawn by
lot (of the batch's id), so that neither a limit nor a budget that ends prefers any.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from routing_service.db import try_lock
from routing_service.errors import ConfigurationError
from routing_service.exploration.companion import CompanionLine, add_companion
from routing_service.exploration.pairs import PairedAnswer, read_pairs
from routing_service.models import Batch, BatchPurpose, Judgement
from routing_service.money.pricing import PriceBook
from routing_service.openai_format.keys import internal_key
from routing_service.settings import JudgeSettings, Settings
from training.data.labels import DataError
from training.label.answers import existing_batch, read_by_id, read_requests
from training.label.judge.prompts import PAIRWISE, SCORE, Template, question_of, template

KEY = "judge"  # the name of the API key
WINDOW = timedelta(hours=24)
REFERENCE_COLUMNS = ("reference", "gold", "answer")

References = Mapping[str, str]  # by custom_id

read_references = read_by_id


@dataclass(frozen=True, slots=True)
class Asked:
    """A companion was made that asks about so many `subjects` (pairs, or single answers) in `calls`. Others were left
    out: `asked_before` of this judge with this template, `too_long` to be a line."""

    batch_id: str
    parent_id: str
    judge: str
    template: str
    subjects: int
    calls: int
    asked_before: int
    too_long: int
    budget_nano: int
    expected_cost_nano: int


@dataclass(frozen=True, slots=True)
class _Call:
    model_a: str
    model_b: str | None
    swapped: bool
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Subject:
    line: int
    calls: tuple[_Call, ...]


def ask_judge(
    session: Session,
    settings: Settings,
    prices: PriceBook,
    batch_id: str,
    *,
    budget_nano: int,
    mode: str = PAIRWISE,
    references: References | None = None,
    limit: int | None = None,
) -> Asked:
    """Write the questions about a batch's answers, in the caller's transaction. What was asked is not paid again.

    `pairwise`: of each pair, which answer is better. `score`: how good an answer is, 1 to 5, by a reference answer: by
    `references`, any answer of the batch that has one; without them the weak answers of pairs, by the strong ones.
    DataError where there is nothing to ask, ConfigurationError without a judge.
    """
    judge = _configured(settings)
    existing_batch(session, batch_id)
    if not try_lock(session, f"judge:{batch_id}"):
        raise DataError(f"answers of {batch_id} are being put before the judge already")
    form = template(judge.template if mode == PAIRWISE else judge.score_template, mode)
    before = _asked_before(session, batch_id, form.name, judge.model)
    picked = _Picked(settings.limits.max_line_bytes, judge, form, before)
    subjects = picked.of(_subjects(session, batch_id, mode, references), batch_id, limit)
    if not subjects:
        raise DataError(_nothing(batch_id, mode, references, picked))
    lines = [picked.line(subject, call) for subject in subjects for call in subject.calls]
    companion_id = add_companion(
        session,
        settings,
        prices,
        purpose=BatchPurpose.JUDGE,
        api_key_id=internal_key(session, KEY),
        parent_id=batch_id,
        lines=lines,
        budget_nano=budget_nano,
        window=WINDOW,
    )
    rows = [(subject, call) for subject in subjects for call in subject.calls]
    _write(session, companion_id, batch_id, form.name, judge.model, rows)
    expected = session.scalars(select(Batch.expected_cost_nano).where(Batch.id == companion_id)).one() or 0
    return Asked(
        companion_id,
        batch_id,
        judge.model,
        form.name,
        len(subjects),
        len(lines),
        picked.asked_before,
        picked.too_long,
        budget_nano,
        expected,
    )


def _configured(settings: Settings) -> JudgeSettings:
    judge = settings.learning.judge
    if judge is None:
        raise ConfigurationError("no judge is configured: name its model in [learning.judge]")
    if judge.model not in settings.models:
        raise ConfigurationError(f"learning.judge.model names {judge.model!r}, which is not configured")
    return judge


def _subjects(session: Session, batch_id: str, mode: str, references: References | None) -> Iterator[_Subject]:
    if mode == PAIRWISE:
        yield from map(_pair, read_pairs(session, batch_id=batch_id))
    elif references is None:
        yield from map(_weak_answer, read_pairs(session, batch_id=batch_id))
    else:
        for request in read_requests(session, batch_id):
            reference = references.get(request.custom_id)
            if request.model is not None and request.text is not None and reference is not None:
                question = question_of(orjson.loads(request.body))
                parts = {"question": question, "reference": reference, "answer_a": request.text}
                yield _Subject(request.line, (_Call(request.model, None, False, parts),))


def _pair(pair: PairedAnswer) -> _Subject:
    question = question_of(pair.body)
    strong_first = {"question": question, "answer_a": pair.strong_answer, "answer_b": pair.weak_answer}
    weak_first = {"question": question, "answer_a": pair.weak_answer, "answer_b": pair.strong_answer}
    calls = _Call(pair.strong, pair.weak, False, strong_first), _Call(pair.weak, pair.strong, True, weak_first)
    return _Subject(pair.line, calls)


def _weak_answer(pair: PairedAnswer) -> _Subject:
    parts = {"question": question_of(pair.body), "reference": pair.strong_answer, "answer_a": pair.weak_answer}
    return _Subject(pair.line, (_Call(pair.weak, None, False, parts),))


def _asked_before(session: Session, batch_id: str, form: str, judge: str) -> set[int]:
    """Lines whose questions all have a reply, or wait for one. Others (no money was left) are asked again."""
    query = text(
        "select parent_line from judgements where parent_id = :id and template = :form and judge = :judge"
        " group by batch_id, parent_line having bool_and(verdict is distinct from 'unanswered')"
    )
    return set(session.scalars(query, {"id": batch_id, "form": form, "judge": judge}))


class _Picked:
    """Chooses what is asked, and counts what is not."""

    def __init__(self, most_bytes: int, judge: JudgeSettings, form: Template, before: set[int]) -> None:
        self._most_bytes, self._judge, self._form, self._before = most_bytes, judge, form, before
        self.asked_before = self.too_long = 0

    def of(self, subjects: Iterator[_Subject], batch_id: str, limit: int | None) -> list[_Subject]:
        """At most `limit` of those that can be asked, in an order drawn by lot."""

        def lot(subject: _Subject) -> bytes:
            return blake2b(f"{batch_id} {subject.line}".encode(), digest_size=16).digest()

        usable = filter(self._is_usable, subjects)
        return sorted(usable, key=lot) if limit is None else heapq.nsmallest(limit, usable, key=lot)

    def line(self, subject: _Subject, call: _Call) -> CompanionLine:
        order = self._form.mode if call.model_b is None else "ba" if call.swapped else "ab"
        return CompanionLine(f"{subject.line}-{order}", self._body(call), self._judge.model, source_line=subject.line)

    def _is_usable(self, subject: _Subject) -> bool:
        if subject.line in self._before:
            self.asked_before += 1
            return False
        longest = max(len(orjson.dumps(self._body(call))) for call in subject.calls)
        self.too_long += longest > self._most_bytes
        return longest <= self._most_bytes

    def _body(self, call: _Call) -> dict[str, Any]:
        return {
            "model": self._judge.model,
            "messages": self._form.messages(call.parts),
            "temperature": 0,
            "max_tokens": self._judge.max_tokens,
        }


def _write(
    session: Session, companion_id: str, parent_id: str, form: str, judge: str, rows: list[tuple[_Subject, _Call]]
) -> None:
    said: dict[str, Any] = {"batch_id": companion_id, "parent_id": parent_id, "template": form, "judge": judge}
    values = [
        {"line": line, "parent_line": subject.line, "model_a": call.model_a, "model_b": call.model_b}
        | {"swapped": call.swapped}
        | said
        for line, (subject, call) in enumerate(rows, start=1)
    ]
    session.execute(insert(Judgement), values)


def _nothing(batch_id: str, mode: str, references: References | None, picked: _Picked) -> str:
    if picked.asked_before or picked.too_long:
        return (
            f"nothing is left to ask about {batch_id}: {picked.asked_before} asked before, {picked.too_long} too long"
        )
    if mode == SCORE and references is not None:
        return f"no answered request of {batch_id} has a reference answer"
    return f"no request of {batch_id} has the answers of two models: paired sampling (explore_share) makes such pairs"
