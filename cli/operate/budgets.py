"""`routebatch budgets`: what the batches of an API key may spend in a day, in a month, or in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import Usd, database_option, json_option
from cli.output import print_json, print_table, usd
from cli.stack_access import transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from routing_service.models import ApiKey
    from routing_service.money.budgets import KeyBudget

KEY = "A key's id, or its name where only one key has it."

key_argument = click.argument("key", metavar="KEY", help=KEY)
per_option = click.option(
    "--per",
    type=click.Choice(["day", "month", "all"]),
    required=True,
    help="Limit what is spent in a UTC day, in a UTC month, or in all.",
)
COLUMNS = ("key", "per", "limit", "reserved", "settled", "left", "resets (UTC)")


@click.group(
    epilog=epilog(
        "routebatch budgets set alice --per month --limit 100",
        "routebatch budgets show alice",
    )
)
def budgets() -> None:
    """Limit what a key's batches may spend.

    A limit is for a day, for a month (UTC's), or for all. A key's batches share its budget: higher priorities first,
    equal ones alike. What does not fit waits: the batch is paused (`key_budget`) and goes on by itself when the next
    period begins or the limit is raised. No request is sent to a cheaper model because of it. A limit counts what is
    reserved from the moment that it is set. KEY is a key's id, or its name where only one key has it.
    """


@budgets.command("set")
@key_argument
@per_option
@click.option(
    "--limit", type=Usd(zero=True), required=True, help="Set this many dollars; 0 lets nothing more be spent."
)
@json_option
@database_option
def set_(key: str, per: str, limit: str, as_json: bool, state_dir: Path | None) -> None:
    """Set a key's limit, for the present period and those that follow.

    It replaces top-ups of the present period. Where more is used already, the present limit becomes what is used, and
    nothing more is reserved.
    """
    from routing_service.models import Period
    from routing_service.money.budgets import set_limit

    _change(key, state_dir, as_json, lambda session, owner: set_limit(session, owner.id, Period(per), _nano(limit)))


@budgets.command("top-up")
@key_argument
@per_option
@click.option("--add", type=Usd(), required=True, help="Add this many dollars.")
@json_option
@database_option
def top_up(key: str, per: str, add: str, as_json: bool, state_dir: Path | None) -> None:
    """Raise a key's limit for the present period only; the next begins with what is set."""
    from routing_service.models import Period
    from routing_service.money.budgets import top_up as add_to

    _change(key, state_dir, as_json, lambda session, owner: add_to(session, owner.id, Period(per), _nano(add)))


@budgets.command()
@key_argument
@per_option
@json_option
@database_option
def remove(key: str, per: str, as_json: bool, state_dir: Path | None) -> None:
    """Remove a key's limit, at once. One that is set later begins with nothing used."""
    from routing_service.models import Period
    from routing_service.money.budgets import remove_limit

    with _named(key, state_dir) as (session, owner):
        remove_limit(session, owner.id, Period(per))
    if as_json:
        print_json({"key_id": owner.id, "key_name": owner.name, "per": per, "limit_usd": None})
    else:
        click.echo(f"{owner.id} ({owner.name}) has no limit {_PER[per]} any more")


@budgets.command()
@click.argument("key", metavar="[KEY]", required=False, help=KEY)
@json_option
@database_option
def show(key: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Show the limits of a key, or of all keys: limit, reserved, settled, left, next reset."""
    from routing_service.money.budgets import standing

    with _named(key, state_dir) as (session, owner):
        limits = standing(session, owner.id if owner else None)
    if as_json:
        print_json([_row(budget) for budget in limits])
    elif not limits:
        click.echo("no key has a limit" if key is None else f"{owner.id} ({owner.name}) has no limit")
    else:
        print_table(COLUMNS, [_cells(budget) for budget in limits], numeric=COLUMNS[2:6])


_PER = {"day": "a day", "month": "a month", "all": "in all"}


def _nano(dollars: str) -> int:
    from routing_service.money.pricing import to_nano

    return to_nano(Decimal(dollars))


@contextmanager
def _named(key: str | None, state_dir: Path | None) -> Iterator[tuple[Session, Any]]:
    """A transaction, and in it the key that was named, or None for all."""
    from routing_service.openai_format.keys import find_key

    with transaction(state_dir) as session:
        yield session, find_key(session, key) if key is not None else None


def _change(key: str, state_dir: Path | None, as_json: bool, change: Callable[[Session, ApiKey], KeyBudget]) -> None:
    from routing_service.money.pricing import to_usd

    with _named(key, state_dir) as (session, owner):
        budget = change(session, owner)
    if as_json:
        print_json(_row(budget))
        return
    left, limit = usd(to_usd(budget.left_nano)), usd(to_usd(budget.limit_nano))
    until = f" until {budget.resets_at:%Y-%m-%d %H:%M} UTC" if budget.resets_at else ""
    click.echo(f"{budget.key_id} ({budget.key_name}): {limit} {_PER[budget.period]}, {left} left{until}")
    if budget.lowered_to_nano is not None:
        wanted = usd(to_usd(budget.lowered_to_nano))
        click.echo(
            f"{limit} are used or reserved already; nothing more is reserved until less than {wanted} is", err=True
        )
    elif budget.each_nano != budget.limit_nano and budget.resets_at:
        click.echo(f"the next {budget.period} begins with {usd(to_usd(budget.each_nano))}", err=True)


def _row(budget: KeyBudget) -> dict[str, Any]:
    from routing_service.money.pricing import format_usd

    return {
        "key_id": budget.key_id,
        "key_name": budget.key_name,
        "per": budget.period,
        "limit_usd": format_usd(budget.limit_nano),
        "next_limit_usd": format_usd(budget.each_nano),
        "reserved_usd": format_usd(budget.reserved_nano),
        "settled_usd": format_usd(budget.settled_nano),
        "overrun_usd": format_usd(budget.overrun_nano),
        "left_usd": format_usd(budget.left_nano),
        "resets_at": budget.resets_at.isoformat() if budget.resets_at else None,
    }


def _cells(budget: KeyBudget) -> tuple[str, ...]:
    from routing_service.money.pricing import to_usd

    amounts = (budget.limit_nano, budget.reserved_nano, budget.settled_nano, budget.left_nano)
    resets = f"{budget.resets_at:%Y-%m-%d %H:%M}" if budget.resets_at else "never"
    name = f"{budget.key_name} ({budget.key_id})"
    return (name, budget.period, *(usd(to_usd(nano)) for nano in amounts), resets)
