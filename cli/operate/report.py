"""`routebatch report`: what was spent and saved, and how well the lengths of answers are predicted."""

from __future__ import annotations

import csv
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import database_option, json_option
from cli.output import print_json, print_table, usd
from cli.stack_access import transaction

if TYPE_CHECKING:
    from routing_service.money.reports import Report

# shown in the table only where they say something
QUIET = {"refused", "unknown", "reserved_usd", "overrun_usd", "duplicates", "duplicates_saved_usd", "cached_saved_usd"}
WIDE = {"parent_id"}  # for CSV and JSON only


@click.group()
def report() -> None:
    """Report costs, and how well output lengths are predicted."""


@report.command(
    epilog=epilog(
        "routebatch report costs",
        "routebatch report costs --by model --since 2026-01-01 --format csv",
    )
)
@click.option(
    "--by", type=click.Choice(["model", "day", "batch"]), default="batch", help="Sum up by model, UTC day or batch."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", help="Print in this form."
)
@json_option
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="Report only from this UTC day on.")
@click.option("--batch", "batch_id", metavar="BATCH", help="Report only this batch (with --by batch).")
@database_option
def costs(
    by: str, form: str, as_json: bool, since: datetime | None, batch_id: str | None, state_dir: Path | None
) -> None:
    """Report what was spent; for batches also what the strong model alone would have cost.

    --json is short for --format json. CSV and JSON hold exact decimals; the table rounds to six.
    """
    from routing_service.money import reports

    if batch_id is not None and by != "batch":
        raise click.UsageError("--batch belongs to --by batch")
    day = since.date() if since else None
    with transaction(state_dir) as session:
        if by == "batch":
            spent = reports.costs_by_batch(session, since=day, batch_id=batch_id)
        else:
            spent = {"model": reports.costs_by_model, "day": reports.costs_by_day}[by](session, since=day)
    if batch_id is not None and not spent.rows:
        raise click.ClickException(f"there is no batch {batch_id}")
    {"table": _table, "csv": _csv, "json": _json}["json" if as_json else form](spent)


@report.command()
@json_option
@database_option
def lengths(as_json: bool, state_dir: Path | None) -> None:
    """Report how well each model's output lengths are predicted, on answers held out of the last fit.

    Median errors are shares of the true length. A model that is not listed is planned by its expected_output_tokens.
    """
    from routing_service.money import reports

    with transaction(state_dir) as session:
        predicted = reports.lengths(session)
    if as_json:
        _json(predicted)
    elif not predicted.rows:
        click.echo("no output lengths are learned yet: a model needs 500 settled answers")
    else:
        columns = [_heading(column) for column in predicted.columns]
        cells = [[_figure(column, row[column]) for column in predicted.columns] for row in predicted.rows]
        print_table(columns, cells, numeric=columns[2:-1])


def _figure(column: str, value: Any) -> str:
    if "error" in column or column == "coverage":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if column == "r2" else f"{value:,.0f}" if isinstance(value, float) else _cell(column, value)


def _table(figures: Report) -> None:
    if not figures.rows:
        click.echo("nothing was spent yet")
        return
    totals = figures.totals
    columns = [column for column in figures.columns if _says_something(column, figures, totals)]
    cells = [[_cell(column, row[column]) for column in columns] for row in figures.rows]
    total = ["total", *(_cell(column, totals.get(column, "")) for column in columns[1:])]
    print_table([_heading(column) for column in columns], cells, numeric=map(_heading, totals), total=total)


def _says_something(column: str, figures: Report, totals: dict[str, int | Decimal]) -> bool:
    if column == "purpose":
        return any(row[column] != "client" for row in figures.rows)
    return column not in QUIET | WIDE or bool(totals.get(column))


def _heading(column: str) -> str:
    return column.removesuffix("_usd").replace("_", " ")


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if column.endswith("_usd") and isinstance(value, Decimal | int):
        return usd(Decimal(value))
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _csv(figures: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(figures.columns)
    writer.writerows([_plain(row[column]) for column in figures.columns] for row in figures.rows)


def _json(figures: Report) -> None:
    print_json([{column: _plain(row[column]) for column in figures.columns} for row in figures.rows])


def _plain(value: Any) -> Any:
    """Exact and unambiguous: decimals as text without an exponent, moments in ISO form."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value.isoformat() if isinstance(value, date) else value
