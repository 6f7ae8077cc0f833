"""`routebatch plan`: what a file would cost and gain, before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.amounts import Usd
from cli.client import Api, Plan, connected, connection_options
from cli.inputs import STDIN, prepared
from cli.submitting import batch_options, create, refuse_file, routing_options

CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 the budget is below the least."
TOO_SMALL = 3


@click.command(epilog=CODES)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option("--budget", type=Usd(), help="Show this budget's plan, too.")
@click.option("--id", "plan_id", metavar="ID", help="Instead of FILE: a plan that was made before.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw gain against dollars, as a PNG.")
@batch_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan, alone, on stdout.")
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
    from cli.follow import follow_plan
    from cli.results import check_paths

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
    from cli.plot import save_frontier

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
