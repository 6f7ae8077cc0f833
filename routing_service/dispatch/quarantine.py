"""Suspects: requests that were in flight when their worker died. One of them may be what killed it.

A request that was lost once flies again, but a pump has no more than COMPANY such requests in flight. One that was lost
twice flies alone: its pump has nothing else in flight, and nothing unsettled. Lost a third time, it fails. So what
kills its worker fails after three losses, and nothing fails that did not see a worker die which had nothing else to do.
The second step is for speed: those that were lost in a crowd are not all to fly alone.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_LOSSES = 3
COMPANY = 16


@dataclass(frozen=True, slots=True)
class Company:
    """What a bite may hold: requests with so many losses. `suspects`: at most so many that were lost before."""

    least_losses: int
    most_losses: int
    suspects: int

    @classmethod
    def among(cls, suspects_in_flight: int) -> Company:
        """Of a pump that has so many of them in flight."""
        room = max(0, COMPANY - suspects_in_flight)
        return cls(0, MOST_LOSSES - 2 if room else 0, room)


ALONE = Company(MOST_LOSSES - 1, MOST_LOSSES - 1, 1)
