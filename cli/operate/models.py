"""`routebatch models`: models that nothing is sent to for now, and an operator's word that they are mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import json_option
from cli.stack_access import database_options
from cli.stack_access import reading as transaction


@click.group()
def models() -> None:
    """Show models that cannot be used now, and have them tried at once."""


@models.command()
@json_option
@database_options
def show(as_json: bool, state_dir: Path | None) -> None:
    """Show models whose upstream refuses us, or failed call after call."""
    from cli.output import print_json, print_table
    from routing_service.upstream.circuit_breaker import open_circuits

    with transaction(state_dir) as session:
        found: list[dict[str, Any]] = [
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
        print_json(found)
    elif found:
        columns = ("model", "cause", "since", "next_call", "status", "message")
        print_table(columns, [tuple(str(row[c] or "-") for c in columns) for row in found])
    else:
        click.echo("every model may be used")


@models.command()
@click.argument("model")
@json_option
@database_options
def reset(model: str, as_json: bool, state_dir: Path | None) -> None:
    """Try a model again at once: its upstream is mended. Paused batches go on with the next sweep."""
    from cli.output import print_json
    from routing_service.upstream.circuit_breaker import close_circuits

    with transaction(state_dir) as session:
        closed = close_circuits(session, model)
    if as_json:
        print_json({"model": model, "reset": closed})
    elif closed:
        click.echo(f"{model} is tried again")
    else:
        click.echo(f"{model} was not held back")
