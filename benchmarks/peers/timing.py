"""Two sides that take turns at the same work, and what came of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

Run = Callable[[], tuple[int, float]]  # prompts done, and the seconds they took

COLUMNS = ("what is timed", "prompts/s", "slowest and fastest run", "against", "prompts/s", "slowest and fastest run")


@dataclass(frozen=True, slots=True)
class Row:
    """`least` and `aim`: how many times as fast as the peer we want to be. `note`: agreement, what is counted."""

    name: str
    against: str
    least: float
    aim: float
    ours: list[float]
    theirs: list[float]
    note: str = ""

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)


def take_turns(ours: Run, theirs: Run, repeats: int) -> tuple[list[float], list[float]]:
    """Prompts a second of each side, by run; one run of each goes first and is not counted."""
    both: tuple[list[float], list[float]] = ([], [])
    for repeat in range(-1, repeats):
        for rates, run in zip(both, (ours, theirs), strict=True):
            prompts, seconds = run()
            if repeat >= 0:
                rates.append(prompts / seconds)
    return both


def as_table(rows: list[Row]) -> Table:
    table = Table(*COLUMNS, "times as fast", "wanted (aim)", "note")
    for row in rows:
        wanted = f"{row.least:g} ({row.aim:g})"
        ours, theirs = _cells(row.ours), _cells(row.theirs)
        table.add_row(row.name, *ours, row.against, *theirs, f"{row.ratio:,.1f}", wanted, row.note)
    return table


def _cells(rates: list[float]) -> tuple[str, str]:
    return _plain(statistics.median(rates)), f"{_plain(min(rates))} to {_plain(max(rates))}"


def _plain(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
