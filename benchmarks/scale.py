"""How long a large file takes from upload to results, and what memory every process needs for it.

`python -m benchmarks.scale [--lines 10000 100000] [--latency-ms 50] [--concurrency 256]`
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from openai import OpenAI
from openai.types import Batch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Stack, running_stack
from sandbox.problems import generate
from sandbox.samples import batch_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--latency-ms", default="50")
    parser.add_argument("--concurrency", type=int, default=256)
    options = parser.parse_args()
    table = Table(
        "lines", "accept s", "ingest s", "score + plan s", "dispatch s", "finish s", "requests/s", "results s"
    )
    peaks: dict[str, int] = {}
    for lines in options.lines:
        with running_stack("--latency-ms", options.latency_ms, concurrency=options.concurrency) as stack:
            table.add_row(f"{lines:,}", *measure(stack, lines))
        for name, peak in stack.peaks.items():
            peaks[name] = max(peak, peaks.get(name, 0))
    console = Console(width=120)
    console.print(table)
    memory = Table("process", "peak RSS MiB")
    for name, peak in sorted(peaks.items()):
        memory.add_row(name, f"{peak / 2**20:.0f}")
    console.print(memory)


def measure(stack: Stack, lines: int) -> list[str]:
    """Run one file of `lines` prompts; the seconds of every step. Fails if an account disagrees."""
    client = stack.client()
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as prompts:
        for number, problem in enumerate(generate(lines, seed=lines), start=1):
            prompts.write(json.dumps(batch_line(number, problem.prompt)).encode() + b"\n")
        prompts.flush()
        started = time.monotonic()
        file = client.files.create(file=Path(prompts.name), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body={"routing": {"budget_usd": str(lines * 0.0015)}},
        )
        accepted = time.monotonic() - started
    batch, planned, dispatched = _follow(client, batch, started)
    finished = time.monotonic() - started
    assert batch.output_file_id
    with client.files.with_streaming_response.content(batch.output_file_id) as content:
        answered = sum(1 for _ in content.iter_lines())
    assert answered == lines, f"{answered} of {lines} answered"
    read = time.monotonic() - started - finished
    settled = json.loads(stack.run("status", batch.id, "--json"))["routing"]["settled_usd"]
    assert round(float(settled) * 1e9) == stack.billed_nano(), (settled, stack.billed_nano())
    stack.run("ledger", "verify")
    assert batch.in_progress_at
    ingested = max(0.0, batch.in_progress_at - batch.created_at)
    steps = [accepted, ingested, planned - accepted - ingested, dispatched - planned, finished - dispatched]
    sys.stderr.write(f"{lines} lines: accepted {accepted:.1f}, finished {finished:.1f} s\n")
    return [f"{max(0.0, s):.1f}" for s in steps] + [f"{lines / max(0.1, dispatched - planned):.0f}", f"{read:.1f}"]


def _follow(client: OpenAI, batch: Batch, started: float) -> tuple[Batch, float, float]:
    """Poll until the batch ends: (the batch, seconds to the first answer, seconds to the last)."""
    planned = dispatched = 0.0
    while True:
        batch = client.batches.retrieve(batch.id)
        now = time.monotonic() - started
        counts = batch.request_counts
        if counts and counts.completed and not planned:
            planned = now
        if counts and counts.total and counts.completed + counts.failed == counts.total and not dispatched:
            dispatched = now
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            assert batch.status == "completed", batch
            return batch, planned, dispatched
        time.sleep(0.2)


if __name__ == "__main__":
    main()
