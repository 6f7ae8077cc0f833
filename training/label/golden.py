"""Golden labels: a batch's answers held against gold answers. Says how good they are, and makes comparisons of pairs.

A pair is a request that both models have answered (paired sampling). Its outcome is (1 + quality of strong's answer
- quality of weak's) / 2, so that two right answers, or two wrong ones, are a tie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from routing_service.exploration.pairs import PairedAnswer, read_pairs
from routing_service.models.base import ComparisonSource
from training.evaluate.intervals import Mean
from training.label.answers import Answered, existing_batch, read_by_id, read_requests
from training.label.graders import Grader
from training.label.store import PairOutcome, keep_comparisons

GOLD_COLUMNS = ("gold", "answer")

Gold = Mapping[str, str]  # by custom_id


@dataclass(frozen=True, slots=True)
class Graded:
    """A batch's quality: of its answers, by model, and of its requests, where one without an answer counts as 0. Only
    requests with a gold answer count. `without_gold` requests have none, `unknown` gold answers are to no request of
    the batch. `comparisons`: made of pairs."""

    batch_id: str
    answers: Mean
    requests: Mean
    by_model: dict[str, Mean]
    without_gold: int
    unknown: int
    comparisons: int


def read_gold(path: Path) -> dict[str, str]:
    """Gold answers by custom_id from CSV or JSON lines: columns `custom_id` (or `id`) and `gold` (or `answer`)."""
    return read_by_id(path, GOLD_COLUMNS)


def grade_batch(session: Session, batch_id: str, gold: Gold, grade: Grader) -> Graded:
    """Grade the answers of a batch, and keep a golden comparison of each of its pairs. Grading again replaces them.

    DataError where there is no such batch. Works inside the caller's transaction.
    """
    existing_batch(session, batch_id)
    tally = _Tally(gold, grade)
    for request in read_requests(session, batch_id):
        tally.add(request)
    outcomes = pair_outcomes(read_pairs(session, batch_id=batch_id), gold, grade)
    return tally.graded(batch_id, keep_comparisons(session, ComparisonSource.GOLDEN, outcomes))


def pair_outcomes(pairs: Iterable[PairedAnswer], gold: Gold, grade: Grader) -> Iterator[PairOutcome]:
    """The outcomes of the pairs that have a gold answer."""
    for pair in pairs:
        if (right := gold.get(pair.custom_id)) is not None:
            difference = grade(pair.strong_answer, right) - grade(pair.weak_answer, right)
            yield PairOutcome(pair.batch_id, pair.line, pair.prompt, pair.strong, pair.weak, (1 + difference) / 2)


@dataclass(slots=True)
class _Tally:
    gold: Gold
    grade: Grader
    by_model: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0, 0.0]))
    known: int = 0  # requests with a gold answer
    without_gold: int = 0

    def add(self, request: Answered) -> None:
        right = self.gold.get(request.custom_id)
        if right is None:
            self.without_gold += 1
            return
        self.known += 1
        if request.model is not None and request.text is not None:
            self.by_model[request.model][0] += 1
            self.by_model[request.model][1] += self.grade(request.text, right)

    def graded(self, batch_id: str, comparisons: int) -> Graded:
        answered = sum(int(n) for n, _ in self.by_model.values())
        total = sum(quality for _, quality in self.by_model.values())
        return Graded(
            batch_id,
            Mean.of(total, answered),
            Mean.of(total, self.known),
            {model: Mean.of(quality, int(n)) for model, (n, quality) in sorted(self.by_model.items())},
            self.without_gold,
            len(self.gold) - self.known,
            comparisons,
        )
