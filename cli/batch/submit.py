"""`routebatch submit`: a file of prompts becomes a batch under a budget.

`plan` shares what stands below the command: the options of a batch, and the upload.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from cli.batch.follow import WAIT_CODES, announce, wait_and_save
from cli.client import Api, ApiError, Batch, connected
from cli.epilog import epilog
from cli.inputs import STDIN, Prepared, file_argument, format_option, prepared
from cli.options import Usd, connection_options, json_option, save_options
from cli.output_files import check_paths
from cli.progress import spinner

Command = TypeVar("Command", bound=Callable[..., Any])

MODES = ("plan", "target_quality", "share", "threshold")
MODE_OPTIONS = {"target_quality": "target_quality", "strong_share": "share", "threshold": "threshold"}

_OPTIONS = (
    format_option,
    click.option("--mode", type=click.Choice(MODES), help="Share out the requests in this way. Default: plan."),
    click.option(
        "--strong-share", type=click.FloatRange(0, 1), help="In mode share: send this share to the strong model."
    ),
    click.option(
        "--target-quality",
        type=click.FloatRange(0, 1),
        help="In mode target_quality: recover this share of the gap between weak and strong at the least cost.",
    ),
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        help="In mode threshold: send to the strong model what has at least this win rate.",
    ),
    click.option("--router", metavar="NAME", help="Score with this router. Default: the server's."),
    click.option(
        "--on-budget",
        type=click.Choice(["stop", "wait"]),
        help="Stop when the budget is spent, or wait for a top-up. Default: stop.",
    ),
    click.option(
        "--on-failure",
        type=click.Choice(["fail", "fallback"]),
        help="Fail a request that its model does not answer, or fall back to another model. Default: fail.",
    ),
    click.option("--priority", type=click.IntRange(0, 9), help="Send batches of a higher priority first. Default: 5."),
    click.option(
        "--dedupe",
        type=click.Choice(["off", "deterministic", "batch", "key"]),
        help="Ask duplicate prompts once. Default: deterministic, those of temperature 0.",
    ),
    click.option(
        "--explore-share",
        type=click.FloatRange(0, 1),
        help="Ask the other model too for this share of the lines, at random, within the budget; routers learn of it.",
    ),
    click.option("--completion-window", default="24h", help="Let the batch expire after this time, such as 2h or 7d."),
)


def batch_options(command: Command) -> Command:
    """Add the options that describe a batch, besides its budget."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog=epilog(
        "routebatch submit prompts.csv --budget 5",
        "routebatch submit prompts.jsonl --budget 5 --wait --output results.jsonl --errors errors.jsonl",
        "routebatch submit prompts.csv --mode share --strong-share 0.3 --budget 5",
        "routebatch submit --plan batch_... --budget 5",
        codes=WAIT_CODES,
    )
)
@file_argument
@click.option("--budget", type=Usd(), help="Never spend more than this. Needed unless the server has a default.")
@click.option("--plan", "plan_id", metavar="ID", help="Run the plan that `routebatch plan` has shown, instead of FILE.")
@save_options
@batch_options
@json_option
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
        with prepared(file, form) as upload, connected(url, api_key) as api:
            batch = create(api, upload, completion_window, routing)
            if follows:
                wait_and_save(api, batch, output, errors, as_json=as_json, source_line=upload.source_line)
    announce(batch, as_json=as_json)


def routing_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as the API's `routing` object; what belongs to a mode implies it."""
    routing = {key: value for key, value in options.items() if value is not None}
    if "budget" in routing:
        routing["budget_usd"] = routing.pop("budget")
    for key, mode in MODE_OPTIONS.items():
        if key in routing and routing.setdefault("mode", mode) != mode:
            raise click.UsageError(f"--{key.replace('_', '-')} belongs to --mode {mode}, not {routing['mode']}")
        if routing.get("mode") == mode and key not in routing:
            raise click.UsageError(f"--mode {mode} needs --{key.replace('_', '-')}")
    return routing


def refuse_file(flag: str, file: str | None, beside: set[str]) -> None:
    """UsageError if a file, or options of one, were given beside `flag`: it names a plan, which has its own."""
    if file is not None:
        raise click.UsageError(f"{flag} stands for FILE: name one of them")
    context = click.get_current_context()
    for name in set(context.params) - beside - {"url", "api_key"}:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} belongs to FILE: the plan has its options already")


def create(api: Api, upload: Prepared, window: str, routing: dict[str, Any], *, preview: bool = False) -> Batch:
    """Upload the file and make a batch of it, or with `preview` a plan of one."""
    for note in upload.notes:
        click.echo(note, err=True)
    with spinner("uploading"):
        file_id = api.upload(upload.stream, upload.name)
    try:
        # the key lets the SDK's retries, and the server, know this very call again
        return api.create(file_id, window, routing, idempotency_key=f"submit-{uuid.uuid4()}", preview=preview)
    except ApiError as error:
        if error.status is not None and not error.transient:
            with suppress(ApiError):
                api.delete_file(file_id)  # refused for good: nothing will ever use it
        raise
