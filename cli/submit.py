"""`routebatch submit`: a file of prompts becomes a batch under a budget."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from cli.amounts import Usd
from cli.client import Api, ApiError, Batch, connected, connection_options
from cli.inputs import FORMATS, STDIN, Prepared, prepared

MODES = ("plan", "target_quality", "share", "threshold")
MODE_OPTIONS = {"target_quality": "target_quality", "strong_share": "share", "threshold": "threshold"}


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 stopped by the budget (with --wait).")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--budget", type=Usd(), help="Never spend more. Needed unless the server has a default.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: found by the file's first line and name.")
@click.option("--wait", is_flag=True, help="Follow the batch to its end.")
@click.option("--output", "-o", type=click.Path(path_type=Path, allow_dash=True), help="Write results; implies --wait.")
@click.option("--errors", type=click.Path(path_type=Path, allow_dash=True), help="Write errors; implies --wait.")
@click.option("--mode", type=click.Choice(MODES), help="How requests are shared out. Default: plan.")
@click.option("--strong-share", type=click.FloatRange(0, 1), help="Of mode share: the share to the strong model.")
@click.option(
    "--target-quality",
    type=click.FloatRange(0, 1),
    help="Of mode target_quality: the share of the expected gap between weak and strong, at the least cost.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), help="Of mode threshold: the least win rate for strong.")
@click.option("--router", help="The router to score with. Default: the server's.")
@click.option("--on-budget", type=click.Choice(["stop", "wait"]), help="What to do when it is spent. Default: stop.")
@click.option("--priority", type=click.IntRange(0, 9), help="9 goes first. Default: 5.")
@click.option(
    "--dedupe",
    type=click.Choice(["off", "deterministic", "batch", "key"]),
    help="Which duplicate prompts are asked once. Default: deterministic, those of temperature 0.",
)
@click.option("--completion-window", default="24h", show_default=True, help="Such as 2h or 7d; then it expires.")
@click.option("--json", "as_json", is_flag=True, help="Print the batch object, alone, on stdout.")
@connection_options
def submit(
    file: str,
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
    """
    from cli.made import announce, see_through
    from cli.results import check_paths

    routing = routing_options(options)
    check_paths(output, errors, None if file == STDIN else file, printing_json=as_json)
    with prepared(file, form) as ready:
        for note in ready.notes:
            click.echo(note, err=True)
        with connected(url, api_key) as api:
            batch = _create(api, ready, completion_window, routing)
            if wait or output or errors:
                see_through(api, batch, output, errors, as_json=as_json, source_line=ready.source_line)
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


def _create(api: Api, ready: Prepared, window: str, routing: dict[str, Any]) -> Batch:
    with _status("uploading"):
        file_id = api.upload(ready.stream, ready.name)
    try:
        # the key lets the SDK's retries, and the server, know this very call again
        return api.create(file_id, window, routing, idempotency_key=f"submit-{uuid.uuid4()}")
    except ApiError as error:
        if error.status is not None and not error.transient:
            with suppress(ApiError):
                api.delete_file(file_id)  # refused for good: nothing will ever use it
        raise


@contextmanager
def _status(text: str) -> Iterator[None]:
    """A spinner on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
