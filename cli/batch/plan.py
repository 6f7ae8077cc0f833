"""`routebatch plan`: what a file would cost and gain, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.batch.follow import follow_plan
from cli.batch.submit import batch_options, create, refuse_file, routing_options
from cli.client import Api, Plan, connected
from cli.epilog import epilog
from cli.errors import STOPPED_BY_BUDGET
from cli.inputs import STDIN, file_argument, prepared
from cli.options import Usd, connection_options, json_option
from cli.output import print_errors, print_json, print_table, usd
from cli.output_files import check_paths


@click.command(
    epilog=epilog(
        "routebatch plan prompts.csv",
        "routebatch plan prompts.csv --budget 5 --plot frontier.png",
        "routebatch plan prompts.csv --target-quality 0.9",
        "routebatch plan --id batch_...",
        codes="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the budget is below the least.",
    )
)
@file_argument
@click.option("--budget", type=Usd(), help="Show the plan for this budget, too.")
@click.option("--id", "plan_id", metavar="ID", help="Show a plan that was made before, instead of one for FILE.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw gain against dollars, as a PNG.")
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
    routing = routing_options(options)
    if plan_id is not None:
        refuse_file("--id", file, beside={"plan_id", "plot", "as_json"})
    elif file is None:
        raise click.UsageError("name a FILE, or a plan with --id")
    check_paths(plot, None, None if file == STDIN else file, printing_json=as_json)
    draw = _drawer(plot)
    with connected(url, api_key) as api:
        if plan_id is not None:
            ready = _require_ready(api, follow_plan(api, plan_id))
        elif file is not None:
            with prepared(file, form) as upload:
                plan_id = create(api, upload, completion_window, routing, preview=True)["id"]
                ready = _require_ready(api, follow_plan(api, plan_id), upload.source_line)
    draw(ready)
    _show(ready, as_json)
    if ready["budget_too_small"]:
        raise SystemExit(STOPPED_BY_BUDGET)


def _drawer(path: Path | None) -> Callable[[Plan], None]:
    """Draws a plan, if it is wanted; what that needs is imported before anything is uploaded."""
    if path is None:
        return lambda plan: None
    from cli.batch.frontier import save_frontier

    return lambda plan: save_frontier(plan, path)


def _require_ready(api: Api, plan: Plan, source_line: Callable[[int], int] = int) -> Plan:
    """The plan, unless it came to nothing."""
    if "ladder" in plan:
        return plan
    if plan["status"] == "failed":
        print_errors(api.batch(plan["id"]), source_line)
    raise click.ClickException(f"plan {plan['id']} is {plan['status']}: there is nothing to show")


def _show(plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    facts = [
        ("state", plan["status"]),
        ("requests", str(plan["requests"]["total"])),
        ("router", plan["router"] + (", which gave no scores" if plan["unscored"] else "")),
        ("least budget", usd(plan["least_budget_usd"])),
        (f"all to {plan['candidates'][0]}", usd(plan["all_weak_usd"])),
        (f"all to {plan['candidates'][-1]}", usd(plan["all_strong_usd"])),
    ]
    print_table(["plan", plan["id"]], facts)
    models = sorted({model for rung in plan["ladder"] for model in rung["share"]}, key=_place(plan))
    interval = f"{100 * plan['interval']:.0f} % interval"
    columns = ["budget", "expected cost", *models, "gain", interval, "of the gain"]
    rows = [_row(rung, models) for rung in _rungs(plan)]
    marks = ["yours" if rung is plan["chosen"] else "" for rung in _rungs(plan)]
    if plan["chosen"]:
        columns, rows = [*columns, ""], [[*row, mark] for row, mark in zip(rows, marks, strict=True)]
    print_table(columns, rows, numeric=columns)
    if plan["budget_too_small"]:
        click.echo(f"the budget of {usd(plan['budget_usd'])} is below the least", err=True)
    if plan["status"] == "ready":
        click.echo(f"run it: routebatch submit --plan {plan['id']} --budget USD", err=True)


def _place(plan: Plan) -> Callable[[str], tuple[int, str]]:
    """Candidates in their order, then what lines are pinned to."""
    places = {model: place for place, model in enumerate(plan["candidates"])}
    return lambda model: (places.get(model, len(places)), model)


def _rungs(plan: Plan) -> list[dict[str, Any]]:
    chosen = [plan["chosen"]] if plan["chosen"] else []
    return sorted([*plan["ladder"], *chosen], key=lambda rung: float(rung["budget_usd"]))


def _row(rung: dict[str, Any], models: list[str]) -> list[str]:
    shares = [f"{100 * rung['share'].get(model, 0.0):.1f} %" for model in models]
    interval = f"{rung['low']:+.3f} to {rung['high']:+.3f}"
    money = [usd(rung["budget_usd"]), usd(rung["expected_cost_usd"])]
    return [*money, *shares, f"{rung['gain']:+.3f}", interval, f"{100 * rung['recovered']:.0f} %"]
