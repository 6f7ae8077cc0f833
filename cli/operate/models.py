"""`routebatch models`: which models cannot be used now, and an operator's word that one is mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import database_option, json_option
from cli.output import print_json, print_table
from cli.stack_access import transaction


@click.group()
def models() -> None:
    """Show models that cannot be used now, and try one again."""


@models.command()
@json_option
@database_option
def show(as_json: bool, state_dir: Path | None) -> None:
    """Show the models whose upstream refuses calls, or fails one after another."""
    from routing_service.upstream.circuit_breaker import open_circuits

    with transaction(state_dir) as session:
        held_back: list[dict[str, Any]] = [
            {
                "model": row.model,
                "cause": row.cause,
                "since": row.opened_at.isoformat(timespec="seconds"),
                "next_call": row.trial_at.isoformat(timespec="seconds"),
                "status": row.status_code,
                "message": row.message,
            }
            for row in open_circuits(session)
        ]
    if as_json:
        print_json(held_back)
    elif held_back:
        columns = ("model", "cause", "since", "next_call", "status", "message")
        print_table(columns, [tuple(str(row[c] or "-") for c in columns) for row in held_back])
    else:
        click.echo("every model may be used")


@models.command()
@click.argument("model", metavar="MODEL", help="A model of the configuration.")
@json_option
@database_option
def reset(model: str, as_json: bool, state_dir: Path | None) -> None:
    """Try a model again at once: its upstream is mended. Paused batches go on with the next sweep."""
    from routing_service.upstream.circuit_breaker import close_circuits

    with transaction(state_dir) as session:
        closed = close_circuits(session, model)
    if as_json:
        print_json({"model": model, "reset": closed})
    elif closed:
        click.echo(f"{model} is tried again")
    else:
        click.echo(f"{model} was not held back")
