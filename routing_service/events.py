"""The events of the service: what is due. `Publisher.publish` announces one, `service.handle` does what it asks for.

An event is only a wake-up: it carries ids, is published after the commit it announces, may be lost or come twice, and
the sweep announces again whatever nobody took up. The workers publish events as Celery messages; tests keep a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class IngestDue:
    """A batch was created: its file is to be read and validated."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class ScoreDue:
    """A range of a batch's lines waits to be scored."""

    batch_id: str
    first_line: int


@dataclass(frozen=True, slots=True)
class PlanDue:
    """Every range of the batch is scored, or enough of it is answered to cut its plan anew."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class DispatchDue:
    """Some batch has requests to dispatch: the pump's doorbell."""


@dataclass(frozen=True, slots=True)
class FinishDue:
    """The batch may have nothing left to do, or is to be cancelled; or it has ended and is to be explored."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class SweepDue:
    """By the clock: what was abandoned is to be recovered, what nobody announced to be announced."""


@dataclass(frozen=True, slots=True)
class FitLengthsDue:
    """By the clock: output lengths are to be learnt from what was answered since."""


Event = IngestDue | ScoreDue | PlanDue | DispatchDue | FinishDue | SweepDue | FitLengthsDue


class Publisher(Protocol):
    """Announces events. It never raises when the broker is away: the sweep makes up for what is lost."""

    def publish(self, event: Event) -> None: ...
