"""`routebatch refit`: fit routers on the database's comparisons now; `refits`: what came of the last re-fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.errors import FAILED
from cli.options import database_option, dry_run_option, json_option, last_option
from cli.output import print_json, print_table
from cli.progress import progress_bars
from cli.stack_access import open_database, stack_settings, transaction

if TYPE_CHECKING:
    from training.refit.record import Listed
    from training.refit.refit import Refitted

TRIGGERS = ("schedule", "comparisons", "drift", "manual")


@click.command(
    epilog=epilog(
        "routebatch refit --dry-run",
        codes="Exit codes: 0 promoted, refused or unchanged, 1 failed or another one runs, 2 wrong usage.",
    )
)
@dry_run_option("Fit and compare, and store nothing.")
@click.option("--trigger", type=click.Choice(TRIGGERS), default="manual", help="Record this as what set it off.")
@json_option
@database_option
def refit(dry_run: bool, trigger: str, as_json: bool, state_dir: Path | None) -> None:
    """Fit routers on the database's comparisons, and promote a better one.

    All comparisons count; routers are judged on the newest, and the best challenger is promoted if it beats the
    champion. The methods and what they are judged on are those of `[learning]` in routebatch.toml (with a stack that
    runs, in its). Versions go into the artifact store of that stack.
    """
    from routing_service.models import RefitOutcome, RefitTrigger
    from training.refit.refit import refit as run

    settings = stack_settings(state_dir)
    with open_database(state_dir) as database, progress_bars() as bars:
        refitted = run(database, settings, trigger=RefitTrigger(trigger), progress=bars, dry_run=dry_run)
    if refitted is None:
        raise click.ClickException("another re-fit runs: `routebatch refits` shows since when")
    _report(refitted, dry_run, as_json)
    if refitted.outcome in (RefitOutcome.FAILED, RefitOutcome.DIED):
        raise SystemExit(FAILED)


@click.command()
@last_option(20, "List this many of the newest.", most=10_000)
@json_option
@database_option
def refits(last: int, as_json: bool, state_dir: Path | None) -> None:
    """List the last re-fits: when, why, on how many comparisons, what came of each and for what reason."""
    from training.refit.record import listed

    with transaction(state_dir) as session:
        newest = listed(session, last)
    if as_json:
        print_json([_fields(one) for one in newest])
    elif not newest:
        click.echo("there was no re-fit yet")
    else:
        columns = ("id", "started", "seconds", "trigger", "comparisons", "outcome", "versions", "reason")
        print_table(columns, map(_row, newest), numeric=("id", "seconds", "comparisons"))


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


def _report(refitted: Refitted, dry_run: bool, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(refitted) | {"dry_run": dry_run})
        return
    outcome = f"would be {refitted.outcome.value}" if dry_run and refitted.figures else refitted.outcome.value
    rows = [("outcome", outcome), ("reason", refitted.reason.replace("; ", "\n"))]
    if refitted.rows is not None:
        rows.append(("comparisons", f"{refitted.rows:,}"))
    if refitted.figures:
        fitted, held = refitted.figures["fitted"], refitted.figures["held_out"]
        rows.append(("fitted on", f"{fitted['prompts']:,} prompts"))
        rows.append(("held out", f"{held['prompts']:,} prompts, {held['live_pairs']:,} of them live pairs"))
        rows.append(("judged on", refitted.figures["primary"]))
        rows += [(f"{method} failed", reason) for method, reason in refitted.figures["failed"].items()]
    if refitted.version_ids:
        rows.append(("versions", ", ".join(f"version-{number}" for number in refitted.version_ids)))
    title = "dry run" if dry_run else f"re-fit {refitted.id}"
    print_table(["", title], rows)
