"""`routebatch ledger`: is the money accounted for?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cli.database import database_options, reading


@click.group()
def ledger() -> None:
    """Check the money ledger."""


@ledger.command()
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@database_options
def verify(as_json: bool, state_dir: Path | None) -> None:
    """Recompute every balance from the ledger's entries. Exits with 1 on any difference."""
    from cli.output import print_json, print_table
    from routing_service.ledger import verify as differences

    with reading(state_dir) as session:
        found = differences(session)
    if as_json:
        print_json([asdict(difference) for difference in found])
    elif found:
        columns = ("budget", "what", "stored (nano-dollars)", "recomputed (nano-dollars)")
        rows = [(str(d.budget_id), d.what, f"{d.stored:,}", f"{d.recomputed:,}") for d in found]
        print_table(columns, rows, numeric=columns[2:])
    else:
        click.echo("the ledger is right: every balance equals the sum of its entries")
    if found:
        raise SystemExit(1)
