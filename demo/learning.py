"""`make demo-learning`: the closed loop. Batches are answered, graded and learned from, and the same money buys more.

A batch of problems is asked under one budget again and again, the first time by the random router. In between come
batches of other problems, which both models answer (paired sampling); their answers are graded, Celery's beat lets the
routers be fitted again, and the gate promotes what is better. It ends with a table and a plot of what that one budget
bought before and after each lesson. `DATA=TABLE` replays recorded answers of real models (columns prompt, gold,
strong_response, weak_response) instead of the simulation: then nothing is made up but time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.learning_material import Material, Part, problems, recorded
from demo.stack import Demo, DemoError, run_demo, running, say

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
    refits: list[dict[str, Any]] = []

    def ended() -> bool:
        rows = demo.operate("refits", "--json")
        refits[:] = [refit for refit in rows if refit["rows"] == comparisons and refit["ended_at"] is not None]
        return bool(refits)

    _until(ended, "the routers were fitted again")
    return refits[0]


def _money(budget_usd: str) -> tuple[str, ...]:
    return ("--budget", budget_usd, "--wait", "--json")


def _until(holds: Any, what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until:
            raise DemoError(f"it took more than {PATIENCE_S} s until {what}")
        time.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Round:
    """One look: which router served, what it cost, and how good the answers were, with a 95 % interval."""

    comparisons: int
    outcome: str
    router: str
    answered: int
    strong: int
    cost: Decimal
    quality: float
    low: float
    high: float

    @classmethod
    def of(
        cls,
        comparisons: int,
        refit: dict[str, Any] | None,
        active: dict[str, Any] | None,
        graded: dict[str, Any],
        costs: dict[str, Any],
    ) -> Round:
        """From the re-fit and the router version in force, the grades, and the batch's row of the cost report."""
        quality = graded["requests"]
        return cls(
            comparisons,
            refit["outcome"] if refit else "-",
            f"{active['name']} ({active['method']})" if active else "random",
            sum(of["n"] for of in graded["by_model"].values()),
            costs["answered_by_strong"] or 0,
            Decimal(costs["cost_usd"]),
            quality["mean"],
            *quality["interval"],
        )


def summary_table(rounds: Sequence[Round], *, simulated: bool) -> Table:
    """A row a look."""
    title = f"the same problems for the same budget ({'simulated' if simulated else 'recorded'} answers)"
    table = Table(title=title, title_justify="left")
    for column in ("comparisons", "re-fit", "router", "to strong", "cost", "right answers", "95 %"):
        table.add_column(column, justify="left" if column in ("re-fit", "router") else "right")
    for look in rounds:
        table.add_row(
            str(look.comparisons),
            look.outcome,
            look.router,
            f"{100 * look.strong / max(1, look.answered):.1f} %",
            f"${look.cost:.4f}",
            f"{100 * look.quality:.1f} %",
            f"{100 * look.low:.1f} to {100 * look.high:.1f}",
        )
    return table


def draw(rounds: Sequence[Round], path: Path, *, simulated: bool) -> None:
    """The quality by the comparisons learned from, as a picture."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        x, y = [look.comparisons for look in rounds], [100 * look.quality for look in rounds]
        spread = [[100 * (r.quality - r.low) for r in rounds], [100 * (r.high - r.quality) for r in rounds]]
        axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, color="#1f5fa8")
        for look in rounds:
            place = (look.comparisons, 100 * look.quality)
            axes.annotate(look.router, place, textcoords="offset points", xytext=(-6, 6), ha="right", fontsize=8)
        axes.margins(x=0.15)
        axes.set_xlabel("comparisons learned from")
        axes.set_ylabel("right answers, %, 95 % interval")
        axes.set_title(f"What the same budget buys ({'simulated' if simulated else 'recorded'} answers)")
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
