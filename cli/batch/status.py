"""`routebatch status`, `watch` and `list`: how batches stand."""

from __future__ import annotations

import click

from cli.batch.follow import END_CODES, exit_code, follow
from cli.client import Batch, connected
from cli.epilog import epilog
from cli.options import batch_argument, connection_options, json_option
from cli.output import error_count, print_batch, print_json, print_table, state, usd, when

COLUMNS = ("batch", "state", "created (UTC)", "requests", "answered", "errors", "cost", "budget")


@click.command()
@batch_argument
@json_option
@connection_options
def status(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Show a batch: its state, counts and cost."""
    with connected(url, api_key) as api:
        print_batch(api.batch(batch_id), as_json=as_json)


@click.command(epilog=epilog(codes=END_CODES))
@batch_argument
@json_option
@connection_options
def watch(batch_id: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Follow a batch to its end, and show it.

    Ctrl-C ends the watching, not the batch.
    """
    with connected(url, api_key) as api:
        batch = follow(api, batch_id)
    print_batch(batch, as_json=as_json)
    raise SystemExit(exit_code(batch))


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="List at most this many.")
@json_option
@connection_options
def list_batches(limit: int, as_json: bool, url: str | None, api_key: str | None) -> None:
    """List your batches, the newest first."""
    with connected(url, api_key) as api:
        batches = api.batches(limit)
    if as_json:
        print_json(batches)
    else:
        print_table(COLUMNS, map(_row, batches), numeric=COLUMNS[3:])


def _row(batch: Batch) -> tuple[str, ...]:
    counts, routing = batch["request_counts"], batch.get("routing") or {}
    numbers = (str(counts["total"]), str(counts["completed"]), str(counts["failed"] or error_count(batch)))
    money = (usd(routing.get("settled_usd")), usd(routing.get("budget_usd")))
    return (batch["id"], state(batch), when(batch["created_at"]), *numbers, *money)
