"""`make demo`: the whole of routebatch once, on this machine, without a key.

600 word problems go through a simulated upstream, under a budget that buys the strong model for about half of them. The
summary at the end takes counts and dollars from the batch and the cost report, and grades answers by the gold ones.
"""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.stack import Demo, DemoError, run_demo, running, say

EXAMPLES = Path(__file__).parents[1] / "examples"
RESULTS, ERRORS = Path("demo-results.jsonl"), Path("demo-results-errors.jsonl")
BUDGET_USD = "0.35"  # all-strong is planned at about 0.73, all-weak at about 0.01
ANSWER = re.compile(r"Answer: (-?\d+)\s*$")
INCOMPLETE = 3  # exit code of a batch that its budget stopped


def main() -> int:
    """Run the demo; the exit code."""
    return run_demo(_show)


def _show() -> None:
    problems = EXAMPLES / "problems.jsonl"
    if not problems.is_file():
        raise DemoError(f"{problems} is missing: run the demo from a checkout")
    with running() as demo:
        outcome = _run(demo, problems)
    Console(highlight=False).print(summary_table(outcome))
    say(f"results: {RESULTS.absolute()}")
    if outcome.errors:
        say(f"errors: {ERRORS.absolute()}")


def _run(demo: Demo, problems: Path) -> Outcome:
    """Submit the problems, and gather what came of them."""
    say(f"submitting {problems.name} under a budget of ${BUDGET_USD}")
    started = time.monotonic()
    submit = ("submit", str(problems), "--budget", BUDGET_USD, "--output", str(RESULTS), "--json")
    batch = demo.run(*submit, allowed=(0, INCOMPLETE))
    seconds = time.monotonic() - started
    if batch["error_file_id"]:
        demo.run("results", batch["id"], "--errors", str(ERRORS), json_wanted=False)
    (costs,) = demo.operate("report", "costs", "--batch", batch["id"], "--format", "json")
    return Outcome.of(batch, costs, seconds, RESULTS, EXAMPLES / "problems_gold.csv")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the demo's batch. Dollars are exact; `right` and `answered` count by model."""

    requests: int
    errors: int
    strong: int
    cost: Decimal
    budget: Decimal
    all_strong: Decimal
    saved: Decimal
    seconds: float
    right: Counter[str]
    answered: Counter[str]

    @classmethod
    def of(cls, batch: dict[str, Any], costs: dict[str, Any], seconds: float, results: Path, gold: Path) -> Outcome:
        """From the batch object, its row of the cost report, and the result file."""
        right, answered = graded(results, gold)
        return cls(
            requests=batch["request_counts"]["total"],
            errors=batch["request_counts"]["failed"],
            strong=costs["answered_by_strong"] or 0,
            cost=Decimal(costs["cost_usd"]),
            budget=Decimal(costs["budget_usd"]),
            all_strong=Decimal(costs["all_strong_usd"] or 0),
            saved=Decimal(costs["saved_usd"] or 0),
            seconds=seconds,
            right=right,
            answered=answered,
        )


def graded(results: Path, gold: Path) -> tuple[Counter[str], Counter[str]]:
    """Right answers and all answers by model."""
    with gold.open(newline="", encoding="utf-8") as stream:
        answers = {row["custom_id"]: row["answer"] for row in csv.DictReader(stream)}
    right, answered = Counter[str](), Counter[str]()
    with results.open(encoding="utf-8") as stream:
        for line in map(json.loads, stream):
            response = line["response"]
            model = response["routing"]["model"]
            answer = ANSWER.search(response["body"]["choices"][0]["message"]["content"])
            answered[model] += 1
            right[model] += answer is not None and answer[1] == answers[line["custom_id"]]
    return right, answered


def summary_table(outcome: Outcome) -> Table:
    """The summary that `make demo` ends with."""
    table = Table("", "", title="routebatch demo", show_header=False, title_justify="left")
    answered = sum(outcome.answered.values())
    table.add_row("requests", str(outcome.requests))
    table.add_row("to the strong model", _share(outcome.strong, answered))
    table.add_row("cost", f"${outcome.cost:.4f}")
    table.add_row("budget", f"${outcome.budget:.4f}")
    table.add_row("all-strong would have cost", f"${outcome.all_strong:.4f} (estimate)")
    table.add_row("saved", f"${outcome.saved:.4f}")
    table.add_row("elapsed", f"{outcome.seconds:.1f} s")
    table.add_row("errors", str(outcome.errors))
    by_model = ", ".join(f"{m} {_percent(outcome.right[m], n)}" for m, n in sorted(outcome.answered.items()))
    right = _percent(sum(outcome.right.values()), answered)
    table.add_row("right answers", f"{right} ({by_model}; simulated)")
    return table


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({_percent(part, whole)})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


if __name__ == "__main__":
    sys.exit(main())
