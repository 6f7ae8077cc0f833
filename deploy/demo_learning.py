"""`make demo-learning`: the closed loop. Batches are answered, graded and learned from, and the same money buys more.

A batch of problems is asked under one budget again and again, the first time by the random router. In between come
batches of other problems, which both models answer (paired sampling); their answers are graded, Celery's beat lets the
routers be fitted again, and the gate promotes what is better. `DATA=TABLE` replays recorded answers of real models
(columns prompt, gold, strong_response, weak_response) instead of the simulation: then nothing is made up but time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.demo_learning_material import Material, Part, problems, recorded
from deploy.demo_learning_summary import Round, draw, summary_table
from deploy.demo_stack import Demo, DemoError, run_demo, running, say

PLOT = Path("demo-learning.png")
PATIENCE_S = 120
LOOK_S = 0.5
INCOMPLETE = 3  # exit code of a batch that its budget stopped
SETTINGS = """\
router = "random"

[learning]
explore_budget_share = 0.5
refit = ""
refit_after = 40
refit_check_s = 2
least_pairs = 50
hold_out = {hold_out}
"""


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a table of recorded answers; without one a simulation answers")
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    return run_demo(lambda: _show(options.data, options.plot))


def _show(data: Path | None, plot: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="routebatch-learning-") as directory:
        material = recorded(data, Path(directory)) if data else problems(Path(directory))
        settings = SETTINGS.format(hold_out=material.hold_out)
        with running(*material.sandbox, settings=settings, output_tokens=material.output_tokens) as demo:
            rounds = list(_loop(demo, material))
    Console(highlight=False, width=110).print(summary_table(rounds, simulated=data is None))
    draw(rounds, plot, simulated=data is None)
    say(f"plot: {plot.absolute()}")


def _loop(demo: Demo, material: Material) -> Any:
    """The first look, then a look after each lesson."""
    yield _look(demo, material, comparisons=0, refit=None)
    learned = 0
    for number, lesson in enumerate(material.lessons, start=1):
        say(f"lesson {number}: {lesson.lines} problems that both models answer")
        learned += _learn(demo, lesson, material)
        refit = _refitted(demo, learned)
        say(f"re-fit on {learned} comparisons: {refit['outcome']} ({refit['reason']})")
        yield _look(demo, material, comparisons=learned, refit=refit)


def _look(demo: Demo, material: Material, *, comparisons: int, refit: dict[str, Any] | None) -> Round:
    """Ask the batch that is never learned from, by the router that serves."""
    versions = demo.operate("routers", "list", "--json")
    active = next((version for version in versions if version["state"] == "active"), None)
    router = ("--router", "auto") if active else ()
    asked = material.looked_at
    say(f"asking {asked.lines} problems for ${material.budget_usd} by {active['name'] if active else 'random'}")
    batch = demo.run("submit", str(asked.prompts), *router, *_money(material.budget_usd), allowed=(0, INCOMPLETE))
    graded = _graded(demo, batch["id"], asked, material)
    (costs,) = demo.operate("report", "costs", "--batch", batch["id"], "--format", "json")
    return Round.of(comparisons, refit, active, graded, costs)


def _learn(demo: Demo, lesson: Part, material: Material) -> int:
    """A batch of which both models answer every line; returns how many comparisons its grades make."""
    batch = demo.run("submit", str(lesson.prompts), "--explore-share", "1", *_money(material.lesson_usd))
    wanted = batch["request_counts"]["completed"]
    _until(lambda: _pairs(demo, batch["id"]) >= wanted, "all pairs were answered")
    return int(_graded(demo, batch["id"], lesson, material)["comparisons"])


def _pairs(demo: Demo, batch_id: str) -> int:
    return int(demo.run("status", batch_id, "--json")["routing"]["exploration"]["pairs"])


def _graded(demo: Demo, batch_id: str, part: Part, material: Material) -> dict[str, Any]:
    graded: dict[str, Any] = demo.operate(
        "grade", batch_id, "--gold", str(part.gold), "--grader", material.grader, "--json"
    )
    return graded


def _refitted(demo: Demo, comparisons: int) -> dict[str, Any]:
    """The re-fit on so many comparisons, which beat asks for, once it has ended."""
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        refits = demo.operate("refits", "--json")
        found[:] = [one for one in refits if one["rows"] == comparisons and one["ended_at"] is not None]
        return bool(found)

    _until(ended, "the routers were fitted again")
    return found[0]


def _money(budget_usd: str) -> tuple[str, ...]:
    return ("--budget", budget_usd, "--wait", "--json")


def _until(holds: Any, what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until:
            raise DemoError(f"it took more than {PATIENCE_S} s until {what}")
        time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
