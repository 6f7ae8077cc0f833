"""Amounts of dollars on the command line."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import click


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
