"""`--set KEY=VALUE`: a method's options from texts, by the types of its dataclass.

Amounts of dollars on the command line.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from typing import Any, Union, get_args, get_origin, get_type_hints

import click


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
