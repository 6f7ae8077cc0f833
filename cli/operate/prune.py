"""`routebatch prune`: remove old uploads from the database."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click

from cli.options import json_option
from cli.stack_access import database_options
from cli.stack_access import reading as transaction

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _age(context: click.Context, option: click.Parameter, value: str) -> timedelta:
    found = re.fullmatch(r"([0-9]{1,5})([hdw])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no age: write hours, days or weeks, as in 12h, 30d, 8w")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


@click.command()
@click.option(
    "--older-than",
    callback=_age,
    required=True,
    metavar="AGE",
    help="Remove files uploaded longer ago than this, such as 12h, 30d or 8w.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
@database_options
def prune(older_than: timedelta, dry_run: bool, as_json: bool, state_dir: Path | None) -> None:
    """Remove uploaded files of that age, of all keys. Batches keep their requests and answers.

    A file that a batch is still to read stays. Expired files go by themselves.
    """
    from cli.output import print_json
    from routing_service.openai_format.files import count_older, remove_older

    with transaction(state_dir) as session:
        count, size = count_older(session, older_than)
        if not dry_run:
            count = size = 0
            while file := remove_older(session, older_than):
                count, size = count + 1, size + file.bytes
    if as_json:
        print_json({"files": count, "bytes": size, "dry_run": dry_run})
    else:
        click.echo(f"{count} files, {size / 1e6:,.1f} MB {'would be' if dry_run else 'are'} removed")
