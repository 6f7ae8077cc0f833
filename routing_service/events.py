"""What the service may announce. The workers implement `Publisher` with Celery messages; tests with a list.

A message is only a wake-up: it carries ids, is sent after the commit it announces, may be lost or come twice, and the
sweep announces again whatever nobody took up. So an implementation never raises when the broker is away.
"""

from __future__ import annotations

from typing import Protocol


class Publisher(Protocol):
    def ingest(self, batch_id: str) -> None:
        """A batch was created: read and validate its file."""

    def score(self, batch_id: str, first_line: int) -> None:
        """A range of a batch's lines (it starts at `first_line`) waits to be scored."""

    def plan(self, batch_id: str) -> None:
        """Every range of the batch is scored, or enough of it is answered for a new cut."""

    def dispatch(self) -> None:
        """Some batch has requests to dispatch: the pump's doorbell."""

    def finish(self, batch_id: str) -> None:
        """The batch may have nothing left to do, or is to be cancelled; or it has ended and is to be explored."""
