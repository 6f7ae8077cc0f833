"""What the learning demo shows at its end: a table and a plot of what one budget buys before and after lessons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.table import Table


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
