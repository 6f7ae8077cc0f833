"""`routebatch prune`: remove old uploads from the database."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import click

from cli.epilog import epilog
from cli.options import database_option, dry_run_option, json_option
from cli.output import print_json
from cli.stack_access import transaction

UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _age(context: click.Context, option: click.Parameter, value: str) -> timedelta:
    age = re.fullmatch(r"([0-9]{1,5})([hdw])", value)
    if not age:
        raise click.BadParameter(f"{value!r} is no age: write hours, days or weeks, as in 12h, 30d, 8w")
    return timedelta(**{UNITS[age[2]]: int(age[1])})


@click.command(epilog=epilog("routebatch prune --older-than 30d --dry-run"))
@click.option(
    "--older-than",
    callback=_age,
    required=True,
    metavar="AGE",
    help="Remove files that were uploaded longer ago than this: 12h, 30d, 8w.",
)
@dry_run_option("Say what would be removed, and remove nothing.")
@json_option
@database_option
def prune(older_than: timedelta, dry_run: bool, as_json: bool, state_dir: Path | None) -> None:
    """Remove old uploaded files.

    Files of all keys go; batches keep their requests and answers. A file that a batch is still to read stays. Expired
    files go by themselves.
    """
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
