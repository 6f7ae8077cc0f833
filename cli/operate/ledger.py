"""`routebatch ledger`: check that the money is accounted for."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from cli.epilog import epilog
from cli.errors import FAILED
from cli.options import database_option, json_option
from cli.output import print_json, print_table
from cli.stack_access import transaction

if TYPE_CHECKING:
    from routing_service.money.reconcile import Reconciled

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


@click.group()
def ledger() -> None:
    """Check the money ledger, and compare an upstream's account with it."""


@ledger.command(epilog=epilog(codes="Exit codes: 0 no difference, 1 a difference, 2 wrong usage."))
@json_option
@database_option
def verify(as_json: bool, state_dir: Path | None) -> None:
    """Verify every balance: recompute it from the ledger's entries."""
    from routing_service.money.ledger import verify as find_differences

    with transaction(state_dir) as session:
        differences = find_differences(session)
    if as_json:
        print_json([asdict(difference) for difference in differences])
    elif differences:
        columns = ("budget", "what", "stored (nano-dollars)", "recomputed (nano-dollars)")
        rows = [(str(d.budget_id), d.what, f"{d.stored:,}", f"{d.recomputed:,}") for d in differences]
        print_table(columns, rows, numeric=columns[2:])
    else:
        click.echo("the ledger is right: every balance equals the sum of its entries")
    if differences:
        raise SystemExit(FAILED)


@ledger.command(epilog=epilog(codes="Exit codes: 0 no more billed than settled, 1 more billed, 2 wrong usage."))
@click.option(
    "--billed",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    required=True,
    help="Read the upstream's account: CSV with the columns model, day, input_tokens, output_tokens.",
)
@json_option
@database_option
def reconcile(billed: TextIO, as_json: bool, state_dir: Path | None) -> None:
    """Reconcile an upstream's account with the attempts made here, by model and UTC day.

    Settled should never lie below billed; what it lies above is explained by attempts whose billing is unknown or
    estimated. The JSON has money in nano-dollars.
    """
    from routing_service.errors import InvalidRequestError
    from routing_service.money.reconcile import read_billed
    from routing_service.money.reconcile import reconcile as reconciled

    try:
        account = read_billed(billed)
    except (InvalidRequestError, UnicodeDecodeError, csv.Error) as error:
        raise click.ClickException(f"{billed.name}: {error}") from error
    with transaction(state_dir) as session:
        rows = reconciled(session, account)
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        print_table(COLUMNS, [_cells(row) for row in rows], numeric=COLUMNS[2:])
    if any(_short(row) for row in rows):
        raise SystemExit(FAILED)


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
