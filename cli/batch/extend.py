"""`routebatch top-up` and `retry`: more money for a batch, and another try for the lines that it left unanswered."""

from __future__ import annotations

import uuid
from pathlib import Path

import click

from cli.batch.follow import WAIT_CODES, announce, wait_and_save
from cli.client import Batch, connected
from cli.epilog import epilog
from cli.options import Usd, batch_argument, connection_options, json_option, save_options
from cli.output_files import check_paths


@click.command("top-up")
@batch_argument
@click.option("--budget", type=Usd(), required=True, help="Add this many dollars.")
@json_option
@connection_options
def top_up(batch_id: str, budget: str, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Add dollars to a batch's budget.

    A completed batch gets a continuation with them, which asks what it left unanswered. Prints the id of the batch that
    has the money.
    """
    with connected(url, api_key) as api:
        batch = api.go_on(batch_id, "top_up", budget, f"top-up-{uuid.uuid4()}")
    _say_whether_new(batch_id, batch)
    announce(batch, as_json=as_json)


@click.command(epilog=epilog(codes=WAIT_CODES))
@batch_argument
@click.option("--budget", type=Usd(), help="Never spend more than this. Default: what the batch left of its own.")
@save_options
@json_option
@connection_options
def retry(
    batch_id: str,
    budget: str | None,
    wait: bool,
    output: Path | None,
    errors: Path | None,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Ask again the requests that a completed batch left unanswered.

    Prints the id of the continuation: a batch of exactly those lines; or with --wait its summary. `routebatch results
    --all` has the answers of both.
    """
    check_paths(output, errors, printing_json=as_json)
    with connected(url, api_key) as api:
        batch = api.go_on(batch_id, "retry", budget, f"retry-{uuid.uuid4()}")
        _say_whether_new(batch_id, batch)
        if wait or output or errors:
            wait_and_save(api, batch, output, errors, as_json=as_json)
    announce(batch, as_json=as_json)


def _say_whether_new(batch_id: str, batch: Batch) -> None:
    if batch["id"] != batch_id:
        click.echo(f"batch {batch['id']} continues {batch_id}", err=True)
