"""Recorded answers, end to end: every prompt of a replay table goes through a whole stack under a budget.

`python -m benchmarks.replay --data gsm8k.csv.gz [--budget 1.50]`; the table has the columns prompt, strong_response,
weak_response and, for the accuracy, strong_correct and weak_correct. The sandbox's account, the ledger and the cost
report must agree to the nano-dollar.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import sys
import time
from decimal import Decimal
from pathlib import Path

from benchmarks.harness import Stack, running_stack
from sandbox.samples import batch_line

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", default="1.50")
    options = parser.parse_args()
    opened = gzip.open if options.data.suffix == ".gz" else open
    with opened(options.data, "rt", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    names = ("--replay", str(options.data), "--strong-model", STRONG, "--weak-model", WEAK)
    with running_stack(*names, strong=STRONG, weak=WEAK, cap=1024) as stack:
        sys.stdout.write(json.dumps(replay(stack, rows, options.budget), indent=2) + "\n")


def replay(stack: Stack, rows: list[dict[str, str]], budget: str) -> dict[str, object]:
    """Submit all prompts by the openai SDK, wait, and hold the three accounts against each other."""
    client = stack.client()
    lines = "".join(json.dumps(batch_line(n, row["prompt"])) + "\n" for n, row in enumerate(rows, start=1))
    file = client.files.create(file=("replay.jsonl", lines.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"routing": {"budget_usd": budget}},
    )
    started = time.monotonic()
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    elapsed = time.monotonic() - started
    assert batch.status == "completed", batch
    assert batch.output_file_id
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert len({a["custom_id"] for a in answers}) == len(answers) == len(rows), "one output line a prompt"
    billed = Decimal(stack.billed_nano()) / 1_000_000_000
    settled = Decimal(json.loads(stack.run("status", batch.id, "--json"))["routing"]["settled_usd"])
    report = csv.DictReader(io.StringIO(stack.run("report", "costs", "--by", "batch", "--format", "csv")))
    reported = next(Decimal(row["cost_usd"]) for row in report if row["batch_id"] == batch.id)
    assert billed == settled == reported, (billed, settled, reported)
    stack.run("ledger", "verify")
    strong = {a["custom_id"] for a in answers if a["response"]["body"]["model"] == STRONG}
    ids = [batch_line(n, row["prompt"])["custom_id"] for n, row in enumerate(rows, start=1)]
    correct = sum(int(r["strong_correct" if i in strong else "weak_correct"]) for i, r in zip(ids, rows, strict=True))
    return {
        "prompts": len(rows),
        "to_strong": len(strong),
        "budget_usd": budget,
        "billed_usd": str(billed),
        "settled_usd": str(settled),
        "reported_usd": str(reported),
        "accuracy": round(correct / len(rows), 4),
        "all_weak_accuracy": round(sum(int(r["weak_correct"]) for r in rows) / len(rows), 4),
        "all_strong_accuracy": round(sum(int(r["strong_correct"]) for r in rows) / len(rows), 4),
        "elapsed_s": round(elapsed, 1),
    }


if __name__ == "__main__":
    main()
