"""Options of a routing method on the command line: `train --set KEY=VALUE`, by the types of the method's dataclass."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import click


def parse_options(options: type[Any], pairs: Iterable[str]) -> Any:
    """A method's options from KEY=VALUE texts, by the types of its dataclass. UsageError names what is wrong."""
    from routing_service.errors import RoutebatchError

    hints = get_type_hints(options)
    known = {field.name: hints[field.name] for field in fields(options) if field.init}
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise click.UsageError(f"--set {pair}: KEY=VALUE is expected, KEY one of: {', '.join(known)}")
        try:
            values[key] = _value(value.strip(), known[key])
        except ValueError as error:
            raise click.UsageError(f"--set {pair}: {error}") from None
    try:
        return options(**values)
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
