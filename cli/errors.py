"""How a command ends: its exit code, and an error as one line on stderr, translated in one place.

`main` runs every command under `in_one_line`, so commands let the project's errors pass and end with FAILED. Whatever
is not expected here stays a traceback: it is a fault of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

DONE, FAILED, USAGE, STOPPED_BY_BUDGET, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def in_one_line(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Turn what the function raises on purpose into a ClickException, which click prints as one line."""

    @wraps(function)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except (click.ClickException, BrokenPipeError):  # of a broken pipe click says nothing: its reader has left
            raise
        except Exception as error:
            line = line_of(error)
            if line is None:
                raise
            raise click.ClickException(line) from error

    return called


def line_of(error: Exception) -> str | None:
    """The line for an error; None for one that nobody expects."""
    from deploy.layout import StackError
    from routing_service.errors import RoutebatchError

    if isinstance(error, RoutebatchError | StackError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return _database_line(error) if "sqlalchemy.exc" in sys.modules else None


def _database_line(error: Exception) -> str | None:
    from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

    if not isinstance(error, DBAPIError):
        return None
    cause = str(error.orig or error).strip().partition("\n")[0]
    if isinstance(error, OperationalError):
        return f"cannot reach the database: {cause}"
    if isinstance(error, ProgrammingError):
        return f"the database does not know that: {cause}; bring its schema up to date with `routebatch migrate`"
    return f"the database failed: {cause}"
