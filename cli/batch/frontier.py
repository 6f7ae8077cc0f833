"""The picture of `routebatch plan --plot`: quality gain against dollars. Importing this module needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import click
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cli.client import Plan
from cli.output_files import writing

SIZE, DPI = (8, 5), 150  # inches, dots an inch


def save_frontier(plan: Plan, path: Path) -> None:
    """Draw a plan's ladder as a PNG file: gain, its interval, and marks for the least budget, the chosen one, and what
    the strongest model alone would cost. ClickException where the file cannot be written."""
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ladder = plan["ladder"]
    dollars = [float(rung["budget_usd"]) for rung in ladder]
    low, gain, high = ([rung[name] for rung in ladder] for name in ("low", "gain", "high"))
    axes.fill_between(dollars, low, high, alpha=0.2, label=f"{100 * plan['interval']:.0f} % interval")
    axes.plot(dollars, gain, marker="o", markersize=4, label="expected gain")
    marks = [(plan["least_budget_usd"], "least budget", "tab:green")]
    marks.append((plan["all_strong_usd"], f"all to {plan['candidates'][-1]}", "tab:red"))
    for amount, label, colour in marks:
        axes.axvline(float(amount), linestyle="--", color=colour, label=f"{label}, ${float(amount):,.4g}")
    if chosen := plan["chosen"]:
        amount = float(chosen["budget_usd"])
        axes.plot([amount], [chosen["gain"]], "*", markersize=14, color="black", label=f"your budget, ${amount:,.4g}")
    axes.set_xlabel("budget in dollars")
    axes.set_ylabel(f"quality gain over all to {plan['candidates'][0]}")
    axes.set_title(f"{plan['requests']['total']:,} requests, router {plan['router']}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    with writing(path) as stream:
        figure.savefig(stream, format="png", dpi=DPI)
    click.echo(f"wrote {path}", err=True)
