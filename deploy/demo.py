"""`make demo`: the whole of routebatch once, on this machine, without a key.

600 word problems through a simulated upstream under a budget that buys the strong model for about half of them; a
summary.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console

from deploy.demo_stack import Demo, DemoError, run_demo, running, say
from deploy.demo_summary import Outcome, summary_table

EXAMPLES = Path(__file__).parents[1] / "examples"
RESULTS, ERRORS = Path("demo-results.jsonl"), Path("demo-results-errors.jsonl")
BUDGET_USD = "0.35"  # all-strong is planned at about 0.73, all-weak at about 0.01
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


if __name__ == "__main__":
    sys.exit(main())
