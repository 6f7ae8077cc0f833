"""Quarantine: requests that were in flight when their worker died. One of them may be what killed it.

A request that was lost once is sent again in quarantine: a pump has no more than MOST_QUARANTINED such requests in
flight. One that was lost twice is sent isolated: its pump has nothing else in flight, and nothing unsettled. Lost a
third time, it fails. So what kills its worker fails after three losses, and nothing fails that did not see a worker die
which had nothing else to do. The first step is for speed: were there none, all that were in flight beside a killer
would be isolated one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_LOSSES = 3
MOST_QUARANTINED = 16


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """What a claim may hold: requests with so many losses, and at most `room` of those that were lost before."""

    least_losses: int
    most_losses: int
    room: int

    @classmethod
    def beside(cls, quarantined_in_flight: int) -> QuarantineLimits:
        """For a pump that has so many quarantined requests in flight."""
        room = max(0, MOST_QUARANTINED - quarantined_in_flight)
        return cls(0, MOST_LOSSES - 2 if room else 0, room)


ISOLATED = QuarantineLimits(MOST_LOSSES - 1, MOST_LOSSES - 1, 1)
