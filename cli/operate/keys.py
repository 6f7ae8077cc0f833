"""`routebatch keys`: create, list and revoke API keys, in the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import database_option, json_option
from cli.output import print_json, print_table
from cli.stack_access import transaction

if TYPE_CHECKING:
    from routing_service.models import ApiKey


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.option("--name", required=True, help="Say whom or what the key is for.")
@json_option
@database_option
def create(name: str, as_json: bool, state_dir: Path | None) -> None:
    """Create a key. It is shown now and never again: only its hash is stored."""
    from routing_service.openai_format.keys import create_key

    with transaction(state_dir) as session:
        key, secret = create_key(session, name)
    if as_json:
        print_json({"id": key.id, "name": key.name, "key": secret})
    else:
        click.echo(secret)
        click.echo(f"{key.id} ({key.name}): keep it, it is not shown again", err=True)


@keys.command("list")
@json_option
@database_option
def list_(as_json: bool, state_dir: Path | None) -> None:
    """List all keys, the revoked ones too."""
    from routing_service.openai_format.keys import list_keys

    with transaction(state_dir) as session:
        rows = [_row(key) for key in list_keys(session)]
    if as_json:
        print_json(rows)
    else:
        columns = ("id", "name", "key", "created", "revoked")
        print_table(columns, [tuple(str(row[c] or "-") for c in columns) for row in rows])


@keys.command()
@click.argument("key_id", metavar="ID", help="The key's id, which `routebatch keys list` shows.")
@json_option
@database_option
def revoke(key_id: str, as_json: bool, state_dir: Path | None) -> None:
    """Revoke a key at once. Its batches go on."""
    from routing_service.openai_format.keys import revoke_key

    with transaction(state_dir) as session:
        key = revoke_key(session, key_id)
    if as_json:
        print_json(_row(key))
    else:
        click.echo(f"{key.id} ({key.name}) is revoked")


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "key": f"rb-...{key.hint}",
        "created": key.created_at.isoformat(timespec="seconds"),
        "revoked": key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else None,
    }
