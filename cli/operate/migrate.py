"""`routebatch migrate`: bring the database's schema up to date."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import database_option, json_option
from cli.output import print_json
from cli.stack_access import find_database


@click.command()
@json_option
@database_option
def migrate(as_json: bool, state_dir: Path | None) -> None:
    """Bring the database's schema up to date. This is safe at any time, from several hosts at once."""
    from migrations.runner import revisions, upgrade

    url = find_database(state_dir)
    before, _ = revisions(url)
    upgrade(url)
    after, _ = revisions(url)
    if as_json:
        print_json({"revision": after, "before": before, "changed": before != after})
    else:
        click.echo(f"schema at revision {after}" + (" already" if before == after else f" (was: {before or 'none'})"))
