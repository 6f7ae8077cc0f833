"""`routebatch ledger`: is the money accounted for?"""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from cli.stack_access import database_options, reading

if TYPE_CHECKING:
    from routing_service.money.reconcile import Reconciled


@click.group()
def ledger() -> None:
    """Check the ledger of the money, alone or against an upstream's account."""


@ledger.command()
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@database_options
def verify(as_json: bool, state_dir: Path | None) -> None:
    """Recompute every balance from the ledger's entries. Exits with 1 on any difference."""
    from cli.output import print_json, print_table
    from routing_service.money.ledger import verify as differences

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


@ledger.command()
@click.option(
    "--billed",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="The upstream's account: CSV with the columns model, day, input_tokens, output_tokens.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON; money in nano-dollars.")
@database_options
def reconcile(billed: TextIO, as_json: bool, state_dir: Path | None) -> None:
    """Hold an upstream's account against the attempts made here, by model and UTC day.

    Settled should never lie below billed; what it lies above is explained by attempts whose billing is unknown or
    estimated. Exits with 1 where more was billed than is settled.
    """
    from cli.output import print_json, print_table
    from routing_service.errors import InvalidRequestError
    from routing_service.money.reconcile import read_billed
    from routing_service.money.reconcile import reconcile as reconciled

    try:
        account = read_billed(billed)
    except (InvalidRequestError, UnicodeDecodeError, csv.Error) as error:
        raise click.ClickException(f"{billed.name}: {error}") from error
    with reading(state_dir) as session:
        rows = reconciled(session, account)
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        print_table(COLUMNS, [_cells(row) for row in rows], numeric=COLUMNS[2:])
    if any(_short(row) for row in rows):
        raise SystemExit(1)


COLUMNS = (
    "day",
    "model",
    "billed tokens",
    "recorded tokens",
    "billed $",
    "settled $",
    "unknown $",
    "estimated $",
    "difference $",
)


def _short(row: Reconciled) -> bool:
    """More was billed than is settled, or tokens of a model that nobody called."""
    return row.difference < 0 or (not row.settled and bool(row.billed_input_tokens + row.billed_output_tokens))


def _cells(row: Reconciled) -> tuple[str, ...]:
    from routing_service.money.pricing import format_usd

    tokens = [
        f"{row.billed_input_tokens:,} + {row.billed_output_tokens:,}",
        f"{row.recorded_input_tokens:,} + {row.recorded_output_tokens:,}",
    ]
    money = (row.billed, row.settled, row.unknown, row.estimated, row.difference)
    return (row.day.isoformat(), row.model, *tokens, *map(format_usd, money))
