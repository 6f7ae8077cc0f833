"""`routebatch refit`: fit routers on the database's comparisons now. `refits`: what became of the last ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option
from cli.stack_access import database_options

if TYPE_CHECKING:
    from training.refit.record import Listed
    from training.refit.refit import Refitted

TRIGGERS = ("schedule", "comparisons", "drift", "manual")


@click.command(epilog="Exit codes: 0 promoted, refused or unchanged; 1 failed, or another one runs; 2 usage.")
@click.option("--dry-run", is_flag=True, help="Fit and compare routers, and keep nothing.")
@click.option(
    "--trigger",
    type=click.Choice(TRIGGERS),
    default="manual",
    show_default=True,
    help="What the record names as the cause.",
)
@json_option
@database_options
def refit(dry_run: bool, trigger: str, as_json: bool, state_dir: Path | None) -> None:
    """Fit routers on all comparisons, judge them on the newest, and promote the best if it beats what serves.

    The methods and what they are judged on are those of `[learning]` in routebatch.toml (with a stack that runs, in
    its). Versions go into the artifact store of that stack.
    """
    from cli.progress import progress_bars
    from cli.stack_access import opened, stack_settings
    from routing_service.models import RefitOutcome, RefitTrigger
    from training.refit.refit import refit as run

    settings = stack_settings(state_dir)
    with opened(state_dir) as database, progress_bars() as bars:
        found = run(database, settings, trigger=RefitTrigger(trigger), progress=bars, dry_run=dry_run)
    if found is None:
        raise click.ClickException("another re-fit runs: `routebatch refits` shows since when")
    _report(found, dry_run, as_json)
    if found.outcome in (RefitOutcome.FAILED, RefitOutcome.DIED):
        raise SystemExit(1)


@click.command()
@click.option(
    "--last", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Show so many of the newest."
)
@json_option
@database_options
def refits(last: int, as_json: bool, state_dir: Path | None) -> None:
    """List the last re-fits: when, why, on how many comparisons, what came of each and for what reason."""
    from cli.output import print_json, print_table
    from cli.stack_access import reading
    from training.refit.record import listed

    with reading(state_dir) as session:
        found = listed(session, last)
    if as_json:
        print_json([_fields(one) for one in found])
    elif not found:
        click.echo("there was no re-fit yet")
    else:
        columns = ("id", "started", "seconds", "trigger", "comparisons", "outcome", "versions", "reason")
        print_table(columns, map(_row, found), numeric=("id", "seconds", "comparisons"))


def _fields(one: Listed) -> dict[str, Any]:
    from dataclasses import asdict

    fields = asdict(one)
    ends = {name: fields[name].isoformat() if fields[name] else None for name in ("started_at", "ended_at")}
    return fields | ends


def _row(one: Listed) -> tuple[str, ...]:
    return (
        str(one.id),
        f"{one.started_at:%Y-%m-%d %H:%M}",
        f"{(one.ended_at - one.started_at).total_seconds():.0f}" if one.ended_at else "-",
        one.trigger,
        f"{one.rows:,}" if one.rows is not None else "-",
        one.outcome,
        ", ".join(map(str, one.version_ids)) or "-",
        one.reason or "-",
    )


def _report(found: Refitted, dry_run: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from cli.output import print_json, print_table

    if as_json:
        print_json(asdict(found) | {"dry_run": dry_run})
        return
    outcome = f"would be {found.outcome.value}" if dry_run and found.figures else found.outcome.value
    rows = [("outcome", outcome), ("reason", found.reason.replace("; ", "\n"))]
    if found.rows is not None:
        rows.append(("comparisons", f"{found.rows:,}"))
    if found.figures:
        fitted, held = found.figures["fitted"], found.figures["held_out"]
        rows.append(("fitted on", f"{fitted['prompts']:,} prompts"))
        rows.append(("held out", f"{held['prompts']:,} prompts, {held['live_pairs']:,} of them live pairs"))
        rows.append(("judged on", found.figures["primary"]))
        rows += [(f"{method} failed", reason) for method, reason in found.figures["failed"].items()]
    if found.version_ids:
        rows.append(("versions", ", ".join(f"version-{number}" for number in found.version_ids)))
    title = "dry run" if dry_run else f"re-fit {found.id}"
    print_table(["", title], rows)
