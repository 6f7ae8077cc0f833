"""Options that several commands share: each is defined once, here.

`Usd` is the type of an amount of dollars; `parse_options` reads `--set KEY=VALUE` by the types of a method's dataclass.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import click

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def state_dir_option(text: str) -> Callable[[Command], Command]:
    """--state-dir: the directory of a stack; `text` says what it is for."""
    return click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help=text)


def connection_options(command: Command) -> Command:
    """--url and --api-key of a client command."""
    url = click.option("--url", envvar="ROUTEBATCH_URL", show_envvar=True, help="Default: the stack on this machine.")
    key = click.option("--api-key", envvar="ROUTEBATCH_API_KEY", show_envvar=True, help="Default: that stack's key.")
    return url(key(command))


def pair_options(strong: str, weak: str) -> Callable[[Command], Command]:
    """--strong and --weak, a pair of models; the texts say what they are of."""

    def add(command: Command) -> Command:
        return click.option("--strong", help=strong)(click.option("--weak", help=weak)(command))

    return add


def seed_option(text: str) -> Callable[[Command], Command]:
    """--seed: what is drawn by it; the same seed draws the same."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help=text)


def save_options(command: Command) -> Command:
    """--output and --errors of commands that may wait for a batch and write its files."""
    kind = click.Path(path_type=Path, allow_dash=True)
    output = click.option("--output", "-o", type=kind, help="Write the results to this file; implies --wait.")
    errors = click.option("--errors", type=kind, help="Write the errors to this file; implies --wait.")
    return output(errors(command))


def parse_options(options: type[Any], pairs: Iterable[str]) -> Any:
    """A method's options from KEY=VALUE texts, by the types of its dataclass. UsageError names what is wrong."""
    from routing_service.errors import RoutebatchError

    hints = get_type_hints(options)
    known = {field.name: hints[field.name] for field in fields(options) if field.init}
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise click.UsageError(f"--set {pair}: KEY=VALUE is expected, KEY one of: {', '.join(known)}")
        try:
            found[key] = _value(value.strip(), known[key])
        except ValueError as error:
            raise click.UsageError(f"--set {pair}: {error}") from None
    try:
        return options(**found)
    except (ValueError, RoutebatchError) as error:
        raise click.UsageError(f"--set: {error}") from None


def _value(text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() in ("", "none"):
            return None
        kind = next(one for one in get_args(kind) if one is not types.NoneType)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false is expected")
        return text.lower() == "true"
    if kind in (int, float):
        value = kind(text)
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError("a finite number is expected")
        return value
    return text


class Usd(click.ParamType[str]):
    """A positive amount of dollars, kept as exact text; with `zero`, nothing is an amount, too."""

    name = "USD"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip().removeprefix("$")
        try:
            amount = Decimal(text)
        except InvalidOperation:
            self.fail(f"{value!r} is no amount of dollars", param, ctx)
        if not amount.is_finite() or amount < 0 or (amount == 0 and not self.zero):
            self.fail(f"{value!r}: {'0 or more' if self.zero else 'more than 0'} is needed", param, ctx)
        return f"{amount:f}"
