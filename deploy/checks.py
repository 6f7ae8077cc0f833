"""A check of `routebatch doctor`: its name, whether it holds, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the table. `ok` None: for information, or not applicable."""

    name: str
    ok: bool | None
    detail: str


def check(name: str, work: Callable[[], str]) -> Check:
    """Whatever a check raises is its finding."""
    try:
        return Check(name, True, work())
    except Exception as error:
        return Check(name, False, str(error).strip() or type(error).__name__)
