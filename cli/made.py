"""What a command prints of a batch that it made: its id at once, or its end where the user waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

from cli.client import Api, Batch
from cli.follow import exit_code, follow
from cli.output import print_errors, print_json, print_summary
from cli.results import STDOUT, save


def announce(batch: Batch, *, as_json: bool) -> None:
    if as_json:
        print_json(batch)
    else:
        click.echo(batch["id"])


def wait_and_save(
    api: Api,
    batch: Batch,
    output: Path | None,
    errors: Path | None,
    *,
    as_json: bool,
    source_line: Callable[[int], int] = int,
) -> NoReturn:
    """Follow the batch to its end, write what is wanted, and exit by how it ended.

    `source_line`: where a line of the batch's file stands in the client's own.
    """
    click.echo(f"batch {batch['id']}", err=True)
    batch = follow(api, batch["id"])
    if batch["status"] == "failed":
        print_errors(batch, source_line)
    else:
        save(api, batch, output, errors)
    if as_json:
        print_json(batch)
    else:
        print_summary(batch, stderr=STDOUT in (output, errors))
        if batch["error_file_id"] and errors is None:
            click.echo(f"the errors: routebatch results {batch['id']} --errors FILE", err=True)
    raise SystemExit(exit_code(batch))
