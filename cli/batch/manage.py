"""What a client does with batches it has submitted: `routebatch status`, `watch`, `results`, `list`, `pause`, `resume`,
`cancel`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.client import Batch, connected
from cli.options import connection_options, json_option

WAIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 stopped by the budget."


@click.command()
@click.argument("batch_id")
@json_option
@connection_options
def status(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Show one batch: its state, counts and cost."""
    with connected(url, api_key) as api:
        _show(api.batch(batch_id), as_json)


@click.command(epilog=WAIT_CODES)
@click.argument("batch_id")
@json_option
@connection_options
def watch(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Follow a batch until it ends."""
    from cli.batch.follow import exit_code, follow

    with connected(url, api_key) as api:
        batch = follow(api, batch_id)
    _show(batch, as_json)
    raise SystemExit(exit_code(batch))


@click.command()
@click.argument("batch_id")
@click.option("--output", "-o", type=click.Path(path_type=Path, allow_dash=True), help="Default: stdout.")
@click.option("--errors", type=click.Path(path_type=Path, allow_dash=True), help="Write the error file here.")
@click.option(
    "--all", "whole", is_flag=True, help="Also the answers of the batches that it continues or is continued by."
)
@json_option
@connection_options
def results(
    batch_id: str,
    output: Path | None,
    errors: Path | None,
    whole: bool,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Write a batch's results to a file, and its errors to another.

    With --errors alone, only the errors are written. With --all, the errors are what the last batch left unanswered.
    """
    from cli.batch.follow import TERMINAL
    from cli.batch.results import chain, save
    from cli.output import print_errors, print_json
    from cli.output_files import STDOUT, check_paths

    if output is None and errors is None:
        output = STDOUT
    check_paths(output, errors, printing_json=as_json)
    with connected(url, api_key) as api:
        batch = api.batch(batch_id)
        if batch["status"] == "failed":
            print_errors(batch)
            raise click.ClickException(f"batch {batch_id} failed its validation: it has no results")
        *earlier, batch = chain(api, batch) if whole else [batch]
        if batch["status"] not in TERMINAL:
            raise click.ClickException(
                f"batch {batch['id']} is {batch['status']}; wait with `routebatch watch {batch['id']}`"
            )
        save(api, batch, output, errors, earlier)
    if as_json:
        print_json(batch)


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@connection_options
def list_batches(limit: int, as_json: bool, url: str | None, api_key: str | None) -> None:
    """List your batches, newest first."""
    from cli.output import print_json, print_table

    with connected(url, api_key) as api:
        batches = api.batches(limit)
    if as_json:
        print_json(batches)
        return
    columns = ("batch", "state", "created (UTC)", "requests", "answered", "errors", "cost", "budget")
    print_table(columns, map(_row, batches), numeric=columns[3:])


def _row(batch: Batch) -> tuple[str, ...]:
    from cli.output import error_count, state, usd, when

    counts, routing = batch["request_counts"], batch.get("routing") or {}
    numbers = (str(counts["total"]), str(counts["completed"]), str(counts["failed"] or error_count(batch)))
    money = (usd(routing.get("settled_usd")), usd(routing.get("budget_usd")))
    return (batch["id"], state(batch), when(batch["created_at"]), *numbers, *money)


@click.command()
@click.argument("batch_id")
@json_option
@connection_options
def pause(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Pause a batch: nothing more of it is sent until it is resumed.

    Calls in flight come back and are paid. Its completion window runs on.
    """
    with connected(url, api_key) as api:
        _show(api.pause(batch_id), as_json)


@click.command()
@click.argument("batch_id")
@json_option
@connection_options
def resume(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Resume a batch that was paused by `routebatch pause`."""
    with connected(url, api_key) as api:
        _show(api.resume(batch_id), as_json)


@click.command()
@click.argument("batch_id")
@click.option("--wait", is_flag=True, help="Wait until the calls in flight have ended.")
@json_option
@connection_options
def cancel(batch_id: str, wait: bool, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Cancel a batch. What is answered already stays, and is paid."""
    from cli.batch.follow import FAILED, follow

    with connected(url, api_key) as api:
        batch = api.cancel(batch_id)
        if wait:
            batch = follow(api, batch_id)
    _show(batch, as_json)
    if wait and batch["status"] != "cancelled":
        raise SystemExit(FAILED)


def _show(batch: Batch, as_json: bool) -> None:
    from cli.output import print_errors, print_json, print_summary

    if as_json:
        print_json(batch)
    else:
        print_summary(batch)
    if batch["status"] == "failed":
        print_errors(batch)
