"""`routebatch plan`: what a file would cost and gain, before anything is sent.

The frontier of a plan as a picture: quality gain against dollars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cli.batch.submit import batch_options, create, refuse_file, routing_options
from cli.client import Api, Plan, connected
from cli.inputs import STDIN, prepared
from cli.options import Usd, connection_options, json_option
from cli.output_files import writing

CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 the budget is below the least."
TOO_SMALL = 3


@click.command(epilog=CODES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option("--budget", type=Usd(), help="Show the plan of this budget, too.")
@click.option("--id", "plan_id", metavar="ID", help="Instead of FILE: show a plan that was made before.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw gain against dollars into this PNG file."
)
@batch_options
@json_option
@connection_options
def plan(
    file: str | None,
    plan_id: str | None,
    form: str | None,
    plot: Path | None,
    completion_window: str,
    as_json: bool,
    url: str | None,
    api_key: str | None,
    **options: Any,
) -> None:
    """Show what a file of prompts would cost and gain at a ladder of budgets.

    Nothing is sent to a model and nothing is reserved. Run what you saw by `routebatch submit --plan ID --budget USD`;
    a plan that nobody runs expires. Gain is the answers' quality above the cheapest model's, on average over all
    requests, from -1 to 1; the interval holds it in nine batches of ten.
    """
    from cli.batch.follow import follow_plan
    from cli.output_files import check_paths

    routing = routing_options(options)
    if plan_id is not None:
        refuse_file("--id", file, beside={"plan_id", "plot", "as_json"})
    elif file is None:
        raise click.UsageError("name a FILE, or a plan with --id")
    check_paths(plot, None, None if file == STDIN else file, printing_json=as_json)
    save = _plotter(plot)
    with connected(url, api_key) as api:
        if plan_id is not None:
            found = _finished(api, follow_plan(api, plan_id))
        elif file is not None:
            with prepared(file, form) as ready:
                plan_id = create(api, ready, completion_window, routing, preview=True)["id"]
                found = _finished(api, follow_plan(api, plan_id), ready.source_line)
    save(found)
    _show(found, as_json)
    if found["budget_too_small"]:
        raise SystemExit(TOO_SMALL)


def _plotter(path: Path | None) -> Any:
    """Draws a plan, if it is wanted; what that needs is imported before anything is uploaded."""
    if path is None:
        return lambda found: None
    return lambda found: save_frontier(found, path)


def _finished(api: Api, found: Plan, source_line: Any = int) -> Plan:
    """The plan, unless it came to nothing."""
    from cli.output import print_errors

    if "ladder" in found:
        return found
    if found["status"] == "failed":
        print_errors(api.batch(found["id"]), source_line)
    raise click.ClickException(f"plan {found['id']} is {found['status']}: there is nothing to show")


def _show(found: Plan, as_json: bool) -> None:
    from cli.output import print_json, print_table, usd

    if as_json:
        print_json(found)
        return
    facts = [
        ("state", found["status"]),
        ("requests", str(found["requests"]["total"])),
        ("router", found["router"] + (", which gave no scores" if found["unscored"] else "")),
        ("least budget", usd(found["least_budget_usd"])),
        (f"all to {found['candidates'][0]}", usd(found["all_weak_usd"])),
        (f"all to {found['candidates'][-1]}", usd(found["all_strong_usd"])),
    ]
    print_table(["plan", found["id"]], facts)
    models = sorted({model for rung in found["ladder"] for model in rung["share"]}, key=_place(found))
    interval = f"{100 * found['interval']:.0f} % interval"
    columns = ["budget", "expected cost", *models, "gain", interval, "of the gain"]
    rows = [_row(rung, models) for rung in _rungs(found)]
    marks = ["yours" if rung is found["chosen"] else "" for rung in _rungs(found)]
    if found["chosen"]:
        columns, rows = [*columns, ""], [[*row, mark] for row, mark in zip(rows, marks, strict=True)]
    print_table(columns, rows, numeric=columns)
    if found["budget_too_small"]:
        click.echo(f"the budget of {usd(found['budget_usd'])} is below the least", err=True)
    if found["status"] == "ready":
        click.echo(f"run it: routebatch submit --plan {found['id']} --budget USD", err=True)


def _place(found: Plan) -> Any:
    """Candidates in their order, then what lines are pinned to."""
    places = {model: place for place, model in enumerate(found["candidates"])}
    return lambda model: (places.get(model, len(places)), model)


def _rungs(found: Plan) -> list[dict[str, Any]]:
    chosen = [found["chosen"]] if found["chosen"] else []
    return sorted([*found["ladder"], *chosen], key=lambda rung: float(rung["budget_usd"]))


def _row(rung: dict[str, Any], models: list[str]) -> list[str]:
    from cli.output import usd

    shares = [f"{100 * rung['share'].get(model, 0.0):.1f} %" for model in models]
    interval = f"{rung['low']:+.3f} to {rung['high']:+.3f}"
    money = [usd(rung["budget_usd"]), usd(rung["expected_cost_usd"])]
    return [*money, *shares, f"{rung['gain']:+.3f}", interval, f"{100 * rung['recovered']:.0f} %"]


SIZE, DPI = (8, 5), 150  # inches, dots an inch


def save_frontier(found: Plan, path: Path) -> None:
    """Draw a plan's ladder as a PNG file: gain, its interval, and marks for the least budget, the chosen one, and what
    the strongest model alone would cost. ClickException where the file cannot be written."""
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ladder = found["ladder"]
    dollars = [float(rung["budget_usd"]) for rung in ladder]
    low, gain, high = ([rung[name] for rung in ladder] for name in ("low", "gain", "high"))
    axes.fill_between(dollars, low, high, alpha=0.2, label=f"{100 * found['interval']:.0f} % interval")
    axes.plot(dollars, gain, marker="o", markersize=4, label="expected gain")
    marks = [(found["least_budget_usd"], "least budget", "tab:green")]
    marks.append((found["all_strong_usd"], f"all to {found['candidates'][-1]}", "tab:red"))
    for amount, label, colour in marks:
        axes.axvline(float(amount), linestyle="--", color=colour, label=f"{label}, ${float(amount):,.4g}")
    if chosen := found["chosen"]:
        amount = float(chosen["budget_usd"])
        axes.plot([amount], [chosen["gain"]], "*", markersize=14, color="black", label=f"your budget, ${amount:,.4g}")
    axes.set_xlabel("budget in dollars")
    axes.set_ylabel(f"quality gain over all to {found['candidates'][0]}")
    axes.set_title(f"{found['requests']['total']:,} requests, router {found['router']}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    with writing(path) as stream:
        figure.savefig(stream, format="png", dpi=DPI)
    click.echo(f"wrote {path}", err=True)
