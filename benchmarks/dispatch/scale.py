"""How long a large file takes by the command line, from `submit` to results on disk, and what memory that needs.

`python -m benchmarks.dispatch.scale [--lines 10000 100000] [--latency-ms 50] [--concurrency 256]`

Every size has a stack of its own. Fails unless every line is answered, the upstream's account equals the ledger's to
the nano-dollar, and `ledger verify` finds nothing. Rows are those that the tables of the database got or had changed
while the batch was dispatched. The last column is the time a line, over that of the size before: 1.00 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psycopg
from openai import OpenAI
from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from benchmarks.harness import Stack, running_stack
from deploy.processes import resolve
from sandbox.problems import batch_line, generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--latency-ms", default="50")
    parser.add_argument("--concurrency", type=int, default=256)
    options = parser.parse_args()
    peaks = Counter[str]()
    table = Table("lines", *Course.COLUMNS, "over before")
    before: float | None = None
    for lines in options.lines:
        with running_stack("--latency-ms", options.latency_ms, concurrency=options.concurrency) as stack:
            course = measure(stack, lines)
        table.add_row(f"{lines:,}", *course.row(), f"{course.each / before:.2f}" if before else "")
        before = course.each
        for name, peak in stack.peaks.items():
            peaks[name] = max(peak, peaks[name])
    console = Console(width=140)
    console.print(table)
    memory = Table("process", "peak RSS MiB")
    for name, peak in sorted(peaks.items()):
        memory.add_row(name, f"{peak / 2**20:.0f}")
    console.print(memory)


@dataclass(frozen=True, slots=True)
class Course:
    """When each step of a batch had ended, in seconds from the command; `rows`: written while it was dispatched."""

    COLUMNS = (
        *("accept s", "ingest s", "score + plan s", "dispatch s", "finish s", "results s", "all s"),
        *("requests/s", "rows/s", "ms a line"),
    )
    lines: int
    accepted: float
    ingested: float
    planned: float
    dispatched: float
    finished: float
    written: float
    rows: int

    @property
    def each(self) -> float:
        return self.written / self.lines

    def row(self) -> list[str]:
        ends = [0.0, self.accepted, self.ingested, self.planned, self.dispatched, self.finished, self.written]
        steps = [f"{max(0.0, end - start):.1f}" for start, end in pairwise(ends)]
        took = max(0.1, self.dispatched - self.planned)
        rates = [f"{self.lines / took:,.0f}", f"{self.rows / took:,.0f}", f"{1000 * self.each:.2f}"]
        return [*steps, f"{self.written:.1f}", *rates]


def measure(stack: Stack, lines: int) -> Course:
    """Run one file of `lines` prompts. Fails if an account disagrees."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory:
        prompts, results = Path(directory, "prompts.jsonl"), Path(directory, "results.jsonl")
        with prompts.open("w") as file:
            for number, problem in enumerate(generate(lines, seed=lines), start=1):
                file.write(json.dumps(batch_line(number, problem.prompt)) + "\n")
        started = time.monotonic()
        batch_id = command(stack, "submit", str(prompts), "--budget", str(lines * 0.0015)).strip()
        accepted = time.monotonic() - started
        ingested, planned, dispatched, finished, rows = _follow(stack, stack.client(), batch_id, started)
        command(stack, "results", batch_id, "--output", str(results))
        written = time.monotonic() - started
        with results.open() as file:
            answered = sum(1 for _ in file)
    assert answered == lines, f"{answered} of {lines} answered"
    settled = json.loads(stack.run("status", batch_id, "--json"))["routing"]["settled_usd"]
    assert round(float(settled) * 1e9) == stack.billed_nano(), (settled, stack.billed_nano())
    stack.run("ledger", "verify")
    sys.stderr.write(f"{lines} lines: accepted {accepted:.1f}, on disk {written:.1f} s\n")
    return Course(lines, accepted, ingested, planned, dispatched, finished, written, rows)


def command(stack: Stack, *arguments: str) -> str:
    """What a client command prints. Its memory's peak is kept with those of the stack's processes."""
    env = os.environ | {"ROUTEBATCH_STATE_DIR": str(stack.root)}
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen([*resolve(("routebatch",)), *arguments], env=env, stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        name = f"routebatch {arguments[0]}"
        stack.peaks[name] = max(stack.peaks.get(name, 0), used.ru_maxrss * 1024)
        printed.seek(0)
        return printed.read()


def _follow(stack: Stack, client: OpenAI, batch_id: str, started: float) -> tuple[float, float, float, float, int]:
    """Poll until the batch ends: seconds to its lines in the database, the first answer, the last one and its files;
    rows written between the two answers."""
    ingested = planned = dispatched = 0.0
    before = after = 0
    while True:
        batch = client.batches.retrieve(batch_id)
        now = time.monotonic() - started
        counts = batch.request_counts
        if counts and counts.total and not ingested:
            ingested = now
        if counts and counts.completed and not planned:
            planned, before = now, _rows_written(stack)
        if counts and counts.total and counts.completed + counts.failed == counts.total and not dispatched:
            dispatched, after = now, _rows_written(stack)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            assert batch.status == "completed", batch
            return ingested, planned, dispatched, now, after - before
        time.sleep(0.1)


def _rows_written(stack: Stack) -> int:
    """Rows inserted and updated in our tables so far, a second late at most."""
    url = make_url(json.loads((stack.root / "stack.json").read_text())["database_url"])
    host, user = str(url.query["host"]), str(url.query["user"])
    with psycopg.connect(host=host, user=user, dbname=url.database, autocommit=True) as connection:
        row = connection.execute("select sum(n_tup_ins + n_tup_upd)::bigint from pg_stat_user_tables").fetchone()
    assert row
    return int(row[0])


if __name__ == "__main__":
    main()
