"""How long a small batch waits behind a large one of its key, and how soon pause, resume and cancel take effect.

`python -m benchmarks.dispatch.waiting [--lines 100000] [--latency-ms 2000] [--concurrency 64]`

The upstream is slow, so that the large batch holds every slot. When a batch stands still is read off the calls that
reach the upstream.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import urllib.request
from collections.abc import Callable

from openai import OpenAI
from openai.types import Batch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Stack, running_stack
from sandbox.problems import batch_line, generate

POLL_S = 0.1
SMALL = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--latency-ms", type=float, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    with running_stack("--latency-ms", str(options.latency_ms), concurrency=options.concurrency) as stack:
        measure(stack, options.lines, options.latency_ms / 1000)


def measure(stack: Stack, lines: int, latency_s: float) -> None:
    table = Table("what", "s")
    client = stack.client()
    submit(client, SMALL)  # whatever is done for the first time is done
    large = submit(client, lines)
    wait(lambda: client.batches.retrieve(large.id).status == "in_progress")
    table.add_row("small batch behind a large one that is scored, to its first answer", first_answer(client))
    wait(lambda: counts(client.batches.retrieve(large.id)) > 0)
    table.add_row("small batch behind a large one that is dispatched, to its first answer", first_answer(client))
    tell(client, large, "pause")
    table.add_row("pause, to the last call that reached the upstream", still(stack, latency_s))
    before = calls(stack)
    tell(client, large, "resume")
    table.add_row("resume, to the next call", wait(lambda: calls(stack) > before))
    wait(lambda: calls(stack) > before + SMALL)
    tell(client, large, "cancel")
    ended = wait(lambda: client.batches.retrieve(large.id).status == "cancelled")
    table.add_row("cancel, to the state cancelled, calls in flight settled", ended)
    stack.run("ledger", "verify")
    Console(width=120).print(f"{lines:,} and {SMALL} lines, median answer {latency_s:g} s", table)


def submit(client: OpenAI, lines: int) -> Batch:
    rows = (batch_line(number, problem.prompt) for number, problem in enumerate(generate(lines, seed=lines), start=1))
    content = io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in rows))
    file = client.files.create(file=("a.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"routing": {"budget_usd": str(lines * 0.002)}},
    )


def tell(client: OpenAI, batch: Batch, action: str) -> None:
    client.post(f"/batches/{batch.id}/{action}", cast_to=Batch)


def first_answer(client: OpenAI) -> str:
    """Seconds from submitting a small batch to its first answer."""
    started = time.monotonic()
    batch = submit(client, SMALL)
    wait(lambda: counts(client.batches.retrieve(batch.id)) > 0)
    return f"{time.monotonic() - started:.1f}"


def counts(batch: Batch) -> int:
    return batch.request_counts.completed if batch.request_counts else 0


def calls(stack: Stack) -> int:
    """Calls that have reached the upstream."""
    with urllib.request.urlopen(stack.sandbox_url.removesuffix("/v1") + "/stats", timeout=30) as answer:
        return sum(model["calls"] for model in json.load(answer)["models"].values())


def still(stack: Stack, latency_s: float) -> str:
    """Seconds until the last call, known when none has come for as long as several take."""
    started = last = time.monotonic()
    seen = calls(stack)
    while time.monotonic() - last < 3 * latency_s:
        now = calls(stack)
        if now > seen:
            seen, last = now, time.monotonic()
        time.sleep(POLL_S)
    return f"{last - started:.1f}"


def wait(condition: Callable[[], bool]) -> str:
    started = time.monotonic()
    while not condition():
        time.sleep(POLL_S)
    return f"{time.monotonic() - started:.1f}"


if __name__ == "__main__":
    main()
