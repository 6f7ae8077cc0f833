"""What commands print: JSON, tables and dollars; and of a batch its summary, its state and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 240  # of a table that goes to a file or a pipe
SIX_DECIMALS = Decimal("0.000001")
ENDS = ("completed_at", "failed_at", "expired_at", "cancelled_at")


def print_json(value: Any) -> None:
    """One line of JSON, alone on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def usd(value: str | Decimal | None) -> str:
    """Dollars for reading: two to six decimals, rounded half to even."""
    if value is None:
        return "-"
    whole, _, decimals = f"{Decimal(value).quantize(SIX_DECIMALS):,f}".partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}"


def share(part: int, whole: int) -> str:
    """A count, and which share of the whole it is."""
    return f"{part} ({100 * part / whole:.1f} %)" if whole else str(part)


def when(timestamp: int | None) -> str:
    """A moment in UTC, for a table."""
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S}" if timestamp is not None else "-"


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; for a file or a pipe so wide that no row of a table is broken."""
    from rich.console import Console

    terminal = Console(stderr=stderr, highlight=False)
    return terminal if terminal.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    numeric: Iterable[str] = (),
    total: Sequence[str] | None = None,
    stderr: bool = False,
) -> None:
    """A table. Cells are shown as they are: what a client or an upstream wrote is never read as markup."""
    from rich.table import Table
    from rich.text import Text

    right = set(numeric)
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if total is not None:
        table.add_section()
        table.add_row(*(Text(cell, style="bold") for cell in total))
    console(stderr=stderr).print(table)


def print_batch(batch: dict[str, Any], *, as_json: bool) -> None:
    """A batch as JSON, or its summary, and why it failed validation if it did."""
    if as_json:
        print_json(batch)
    else:
        print_summary(batch)
    if batch["status"] == "failed":
        print_errors(batch)


def print_summary(batch: dict[str, Any], *, stderr: bool = False) -> None:
    """What became of a batch, and for how much."""
    print_table(["batch", str(batch["id"])], summary(batch), stderr=stderr)


def summary(batch: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of a batch's summary."""
    counts = batch.get("request_counts") or {}
    routing = batch.get("routing") or {}
    rows = [
        ("state", state(batch)),
        ("requests", str(counts.get("total", 0))),
        ("answered", str(counts.get("completed", 0))),
        ("errors", str(counts.get("failed", 0) or error_count(batch))),
    ]
    for name in ("paused", "unscored"):
        if routing.get(f"{name}_reason"):
            rows.append((f"why {name}", routing[f"{name}_reason"]))
    rows += [(name.replace("_", " "), routing[name]) for name in ("continues", "continued_by") if routing.get(name)]
    if routing.get("router_version") is not None:
        rows.append(("router", routing["router"]))
    models = routing.get("models") or {}
    answered = sum(models.values())
    rows += [(f"by {model}", share(count, answered)) for model, count in sorted(models.items())]
    if "budget_usd" in routing:
        rows += [("cost", usd(routing.get("settled_usd"))), ("budget", usd(routing["budget_usd"]))]
    if explored := routing.get("exploration"):
        of = f"{usd(explored['settled_usd'])} of {usd(explored['budget_usd'])}"
        rows.append(("of it, to explore", f"{of}: {explored['pairs']} pairs"))
    if Decimal(routing.get("reserved_usd") or 0):
        rows.append(("reserved", usd(routing["reserved_usd"])))
    if Decimal(routing.get("overrun_usd") or 0):
        rows.append(("overrun", usd(routing["overrun_usd"])))
    if (seconds := elapsed(batch)) is not None:
        rows.append(("elapsed", f"{seconds} s"))
    return rows


def elapsed(batch: dict[str, Any]) -> int | None:
    """Seconds from a batch's creation to its end, None while it has none."""
    for end in ENDS:
        if batch.get(end) is not None:
            return int(batch[end]) - int(batch["created_at"])
    return None


def state(batch: dict[str, Any]) -> str:
    """A batch's state, with what the budget makes of it."""
    routing = batch.get("routing") or {}
    if routing.get("incomplete"):
        return f"{batch['status']}, stopped by its budget"
    if awaits_approval(batch):
        return "plan, awaits approval"
    if routing.get("paused"):
        return f"{batch['status']}, paused: {routing['paused']}"
    return str(batch["status"])


def awaits_approval(batch: dict[str, Any]) -> bool:
    """It is a plan that stands still until somebody approves it."""
    return batch["status"] == "in_progress" and (batch.get("routing") or {}).get("paused") == "approval"


def error_count(batch: dict[str, Any]) -> int:
    """How many errors validation found; at least those that are listed."""
    listed = (batch.get("errors") or {}).get("data") or []
    return int((batch.get("routing") or {}).get("error_count") or len(listed))


def print_errors(batch: dict[str, Any], source_line: Callable[[int], int] = int) -> None:
    """Why a batch failed validation: line, code and reason, on stderr. `source_line`: a line in the client's file."""
    listed = (batch.get("errors") or {}).get("data") or []
    for error in listed:
        line = f"line {source_line(error['line'])}: " if error.get("line") is not None else ""
        click.echo(f"{line}{error.get('code')}: {error.get('message')}", err=True)
    count = error_count(batch)
    if count > len(listed):
        click.echo(f"and {count - len(listed)} more", err=True)
