"""`routebatch submit`: a file of prompts becomes a batch under a budget."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import click

from cli.amounts import Usd
from cli.client import connected, connection_options
from cli.inputs import STDIN, prepared
from cli.submitting import batch_options, create, refuse_file, routing_options


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 stopped by the budget (with --wait).")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option("--budget", type=Usd(), help="Never spend more. Needed unless the server has a default.")
@click.option("--plan", "plan_id", metavar="ID", help="Instead of FILE: run what `routebatch plan` has shown.")
@click.option("--wait", is_flag=True, help="Follow the batch to its end.")
@click.option("--output", "-o", type=click.Path(path_type=Path, allow_dash=True), help="Write results; implies --wait.")
@click.option("--errors", type=click.Path(path_type=Path, allow_dash=True), help="Write errors; implies --wait.")
@batch_options
@click.option("--json", "as_json", is_flag=True, help="Print the batch object, alone, on stdout.")
@connection_options
def submit(
    file: str | None,
    plan_id: str | None,
    form: str | None,
    wait: bool,
    output: Path | None,
    errors: Path | None,
    completion_window: str,
    as_json: bool,
    url: str | None,
    api_key: str | None,
    **options: Any,
) -> None:
    """Submit a file of prompts under a budget.

    FILE is an OpenAI batch file (JSONL), JSONL with {"prompt": ...} or {"messages": ...} a line, CSV with a `prompt`
    column, text with a prompt a line, or - for stdin. Prints the batch's id, or with --wait its summary.

    With --plan, the plan of that id runs as it was shown, under --budget or else the budget that it was made with. It
    is refused where prices, candidates or the router have changed since.
    """
    from cli.made import announce, wait_and_save
    from cli.results import check_paths

    routing = routing_options(options)
    check_paths(output, errors, None if file == STDIN else file, printing_json=as_json)
    follows = wait or output is not None or errors is not None
    if plan_id is not None:
        refuse_file("--plan", file, beside={"plan_id", "budget", "wait", "output", "errors", "as_json"})
        with connected(url, api_key) as api:
            batch = api.go_on(plan_id, "approve", routing.get("budget_usd"), f"approve-{uuid.uuid4()}")
            if follows:
                wait_and_save(api, batch, output, errors, as_json=as_json)
    else:
        if file is None:
            raise click.UsageError("name a FILE, or a plan with --plan")
        with prepared(file, form) as ready, connected(url, api_key) as api:
            batch = create(api, ready, completion_window, routing)
            if follows:
                wait_and_save(api, batch, output, errors, as_json=as_json, source_line=ready.source_line)
    announce(batch, as_json=as_json)
