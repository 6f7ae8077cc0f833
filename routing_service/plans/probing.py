"""Probing: while nobody knows what answers cost, a few of each model's are waited for before the rest is sent.

A plan whose costs rest on a prior of output lengths cuts at the wrong place, and the cheap end of a batch goes out at
full speed before the first dear answer has come back. So a batch of a model without fitted lengths first sends `probes`
calls to each candidate, from both ends of its ranking, and keeps the rest back. When most of them are answered, or a
candidate has none to send, the batch is cut anew by what they cost (`replan`), and the rest follows. It costs one round
trip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.models import Batch
from routing_service.scoring.lengths import without_fit
from routing_service.settings import Settings

LEAST_LINES = 50  # smaller batches are not worth the wait
LEAST_PROBES, MOST_PROBES, ONE_IN = 4, 32, 16  # of a batch's asked lines, within bounds
ANSWERED = 0.75  # of the probes: the slowest are not waited for


def probes_for(session: Session, batch: Batch, settings: Settings) -> int | None:
    """How many calls to each candidate come before the rest; None where costs are known, or are not planned by."""
    asked = batch.total - batch.duplicates
    if asked < LEAST_LINES or len(batch.candidates) < 2 or batch.options.get("mode", "plan") != "plan":
        return None
    if not without_fit(session, settings, batch.candidates):
        return None
    return min(MOST_PROBES, max(LEAST_PROBES, asked // ONE_IN))


@dataclass(frozen=True, slots=True)
class Probing:
    """How far a batch's probes are, by candidate."""

    wanted: int
    in_flight: Mapping[str, int]
    answered: Mapping[str, int]

    @classmethod
    def of(cls, session: Session, batch_id: str, candidates: Sequence[str], wanted: int) -> Probing:
        """Read from the batch's attempts, which are few as long as it probes."""
        query = text(
            "select model, count(*) filter (where state = 'started'),"
            " count(*) filter (where state = 'succeeded' and error_code is null) from attempts where batch_id = :id"
            " group by model"
        )
        rows = {row[0]: (row[1], row[2]) for row in session.execute(query, {"id": batch_id})}
        in_flight = {model: rows.get(model, (0, 0))[0] for model in candidates}
        return cls(wanted, in_flight, {model: rows.get(model, (0, 0))[1] for model in candidates})

    def within(self, slots: Mapping[str, int]) -> dict[str, int]:
        """The slots that probing leaves; what is not a candidate is not held back."""
        room = {m: max(0, self.wanted - self.in_flight[m] - self.answered[m]) for m in self.in_flight}
        return {model: min(free, room.get(model, free)) for model, free in slots.items()}

    def ready(self) -> bool:
        """Whether a cut is worthwhile: no probe that is still needed is in flight."""
        return any(self.answered.values()) and all(self._knows(m) or not self.in_flight[m] for m in self.in_flight)

    def over(self) -> bool:
        """Whether enough of every candidate's probes are answered."""
        return all(map(self._knows, self.in_flight))

    def in_vain(self, slots: Mapping[str, int], barred: Set[str] = frozenset(), *, cut: bool) -> bool:
        """Whether nothing was sent though it could have been, so that no answer will ever come. `barred`: models that
        nothing is sent to, whose answers are not waited for. `cut`: the batch was cut anew by the answers there are."""
        could = all(slots.get(m, 0) > 0 for m in self.in_flight if not self._knows(m) and m not in barred)
        return could and not any(self.in_flight.values()) and (cut or not any(self.answered.values()))

    def _knows(self, model: str) -> bool:
        return self.answered[model] >= ANSWERED * self.wanted


def end_probing(session: Session, batch_id: str) -> None:
    session.execute(text("update batches set probes = null where id = :id"), {"id": batch_id})


def ready_to_cut(session: Session, batch_ids: Sequence[str]) -> list[str]:
    """Of the batches, those that probe and whose probes are in."""
    query = text(
        "select id, candidates, probes from batches where id = any(:ids) and probes is not null"
        " and state = 'in_progress'"
    )
    rows = session.execute(query, {"ids": list(batch_ids)}).all()
    return [row.id for row in rows if Probing.of(session, row.id, row.candidates, row.probes).ready()]
