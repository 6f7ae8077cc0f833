"""Reservations a second when 1, 2, 4 and 8 processes contend for the same budgets, and whether the sums hold.

`python -m benchmarks.dispatch.ledger [--reservations 100000] [--processes 1 2 4 8] [--repeats 3] [--seed 1] [--json]`

Every process reserves claim chunks of 64 on the budgets of eight batches, each time together with one budget that all
batches share, and settles what it holds in flight. The shared limit is so close that it binds towards the end. A
deadlock, a reservation that the database refuses, a balance above its limit or a wrong sum ends the run with an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.servers import run_postgres
from migrations.runner import upgrade
from routing_service.db import Database
from routing_service.money import ledger
from tests.support.chaos.contention import CLAIM_CHUNK, WORST_NANO, contend, make_contest

BATCHES = 8
SHARE_BILLED = 0.17  # of the worst cases of all lines: the shared limit, of which they bill nearly as much


@dataclass(frozen=True)
class Run:
    """One contest. Rates are a second of wall time, from the first process's first chunk to the last one's end."""

    processes: int
    reserved: int
    refused: int
    seconds: float
    settled_nano: int
    limit_nano: int

    @property
    def rate(self) -> float:
        return self.reserved / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reservations", type=int, default=100_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = []
    for repeat in range(options.repeats):  # interleaved, so that what else the machine does falls on all alike
        for processes in options.processes:
            runs.append(measure(processes, options.reservations, options.seed + repeat))
            sys.stderr.write(f"{processes} processes: {runs[-1].rate:,.0f} reservations/s\n")
    if options.json:
        sys.stdout.write(json.dumps([asdict(run) | {"rate": run.rate} for run in runs], indent=2) + "\n")
    else:
        Console(width=120).print(as_table(runs))


def measure(processes: int, reservations: int, seed: int) -> Run:
    """A contest on a fresh database. AssertionError names what does not hold after it."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory, run_postgres(Path(directory)) as url:
        upgrade(url)
        database = Database(url)
        limit = round(reservations * SHARE_BILLED * sum(WORST_NANO) / 2)
        contest = make_contest(
            database,
            url,
            batches=BATCHES,
            lines=reservations // BATCHES,
            batch_limit=limit,
            shared_limit=limit,
            seed=seed,
        )
        parts = contend(contest, processes)
        with database.transaction() as session:
            (shared,) = ledger.lock_budgets(session, [contest.shared_id])
            assert shared.reserved == 0, shared
            assert shared.settled <= shared.limit, shared
            differences = ledger.verify(session)
            assert differences == [], differences
        database.dispose()
    seconds = max(part.ended_s for part in parts) - min(part.started_s for part in parts)
    reserved, refused = sum(part.reserved for part in parts), sum(part.refused for part in parts)
    return Run(processes, reserved, refused, seconds, shared.settled, shared.limit)


def as_table(runs: list[Run]) -> Table:
    table = Table(
        "processes",
        "reservations",
        "refused",
        f"reservations/s in claim chunks of {CLAIM_CHUNK}",
        "settled of the limit",
    )
    for processes in sorted({run.processes for run in runs}):
        mine = [run for run in runs if run.processes == processes]
        rates = sorted(run.rate for run in mine)
        table.add_row(
            str(processes),
            f"{min(run.reserved for run in mine):,}",
            f"{max(run.refused for run in mine):,}",
            f"{statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})",
            f"{max(run.settled_nano / run.limit_nano for run in mine):.1%}",
        )
    return table


if __name__ == "__main__":
    main()
