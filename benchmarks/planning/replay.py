"""Recorded answers, end to end: every prompt of a replay table goes through a whole stack under each of some budgets.

`python -m benchmarks.planning.replay --data gsm8k.csv.gz [--budget 1.50] [--budget 2] [--learned]`; the table has the
columns prompt, strong_response, weak_response and, for the accuracy, strong_correct and weak_correct. The sandbox's
account, the ledger and the cost report must agree to the nano-dollar. Told is what a budget leaves unspent, beside
the worst case of one strong call: what binds should leave no more than the larger of that and 3 %. Output lengths are
unknown to each batch unless `--learned` lets the first two teach the others.
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

from benchmarks.harness import PRICES, Stack, running_stack
from routing_service.openai_format.body import input_bytes
from routing_service.settings import ModelSettings
from sandbox.problems import batch_line

CAP, NANO = 1024, 1_000_000_000
STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", action="append", default=[])
    parser.add_argument("--learned", action="store_true")
    options = parser.parse_args()
    opened = gzip.open if options.data.suffix == ".gz" else open
    with opened(options.data, "rt", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    names = ("--replay", str(options.data), "--strong-model", STRONG, "--weak-model", WEAK)
    extra = "[score]\nfit_lengths_s = 1\n" if options.learned else ""
    with running_stack(*names, strong=STRONG, weak=WEAK, cap=CAP, extra=extra) as stack:
        if options.learned:  # an answer to every prompt by each model, as the models' shares are what plans differ in
            for share in ("0", "1"):
                replay(stack, rows, "100", {"mode": "share", "strong_share": share})
            wait_for_lengths(stack)
        for budget in options.budget or ["1.50"]:
            sys.stdout.write(json.dumps(replay(stack, rows, budget)) + "\n")
            sys.stdout.flush()


def wait_for_lengths(stack: Stack) -> None:
    """Until the output lengths of both models are fitted; raises TimeoutError after a minute."""
    until = time.monotonic() + 60
    while len(json.loads(stack.run("report", "lengths", "--json"))) < 2:
        if time.monotonic() > until:
            raise TimeoutError("output lengths were not fitted")
        time.sleep(1)


def replay(
    stack: Stack, rows: list[dict[str, str]], budget: str, routing: dict[str, str] | None = None
) -> dict[str, object]:
    """Submit all prompts by the openai SDK, wait, and hold the three accounts against each other."""
    client, before = stack.client(), stack.billed_nano()
    lines = "".join(json.dumps(batch_line(n, row["prompt"])) + "\n" for n, row in enumerate(rows, start=1))
    file = client.files.create(file=("replay.jsonl", lines.encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        extra_body={"routing": {"budget_usd": budget} | (routing or {})},
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
    billed = Decimal(stack.billed_nano() - before) / NANO
    settled = Decimal(json.loads(stack.run("status", batch.id, "--json"))["routing"]["settled_usd"])
    report = csv.DictReader(io.StringIO(stack.run("report", "costs", "--by", "batch", "--format", "csv")))
    reported = next(Decimal(row["cost_usd"]) for row in report if row["batch_id"] == batch.id)
    assert billed == settled == reported, (billed, settled, reported)
    stack.run("ledger", "verify")
    strong = {a["custom_id"] for a in answers if a["response"]["body"]["model"] == STRONG}
    ids = [batch_line(n, row["prompt"])["custom_id"] for n, row in enumerate(rows, start=1)]
    correct = sum(int(r["strong_correct" if i in strong else "weak_correct"]) for i, r in zip(ids, rows, strict=True))
    worst = Decimal(max(strong_worst_nano(row["prompt"]) for row in rows)) / NANO
    return {
        "prompts": len(rows),
        "to_strong": len(strong),
        "budget_usd": budget,
        "billed_usd": str(billed),
        "settled_usd": str(settled),
        "reported_usd": str(reported),
        "left_share": round(float(1 - settled / Decimal(budget)), 4),
        "strong_worst_share": round(float(worst / Decimal(budget)), 4),
        "accuracy": round(correct / len(rows), 4),
        "all_weak_accuracy": round(sum(int(r["weak_correct"]) for r in rows) / len(rows), 4),
        "all_strong_accuracy": round(sum(int(r["strong_correct"]) for r in rows) / len(rows), 4),
        "elapsed_s": round(elapsed, 1),
    }


def strong_worst_nano(prompt: str) -> int:
    """What a strong call of the prompt reserves."""
    overhead = ModelSettings.model_fields["overhead_tokens"].default
    bound = input_bytes({"messages": [{"role": "user", "content": prompt}]}) + overhead
    return int(bound * PRICES["strong"][0] + CAP * PRICES["strong"][1])


if __name__ == "__main__":
    main()
