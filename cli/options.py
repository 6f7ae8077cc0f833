"""Arguments and options that several commands share: each is defined once, here.

A command takes one by its decorator (`@json_option`). Where the same option means something else to each command, the
decorator is made from a help text (`seed_option("Draw ...")`). `Usd` is the type of an amount of dollars. What only two
neighbours share stands with them: the options of a batch in `batch/submit.py`, a router and its pair of models in
`routers/choice.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

PORT = click.IntRange(0, 65535)
WRITABLE = click.Path(path_type=Path, allow_dash=True)

batch_argument = click.argument("batch_id", metavar="BATCH", help="The batch's id.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for a confirmation.")


def connection_options(command: Command) -> Command:
    """--url and --api-key of a client command."""
    url = click.option(
        "--url",
        envvar="ROUTEBATCH_URL",
        show_envvar=True,
        help="Talk to the API at this address. Default: the stack on this machine.",
    )
    key = click.option(
        "--api-key",
        envvar="ROUTEBATCH_API_KEY",
        show_envvar=True,
        help="Identify yourself with this key. Default: the key of the stack on this machine.",
    )
    return url(key(command))


def state_dir_option(text: str) -> Callable[[Command], Command]:
    """--state-dir: the directory of a stack; `text` says what it is for."""
    return click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help=text)


database_option = state_dir_option(
    "Use the database of the stack in this directory. "
    "Default: the configured database, else that of the stack in the default state directory."
)


def save_options(command: Command) -> Command:
    """--wait, --output and --errors of commands that may follow a batch to its end and write its files."""
    wait = click.option("--wait", is_flag=True, help="Follow the batch to its end, and print its summary.")
    output = click.option("--output", "-o", type=WRITABLE, help="Write the answers to this file; implies --wait.")
    errors = click.option("--errors", type=WRITABLE, help="Write the errors to this file; implies --wait.")
    return wait(output(errors(command)))


def artifact_option(command: Command) -> Command:
    """--output of commands that make a router: a directory (`output_files.check_artifact` says which will do)."""
    kind = click.Path(path_type=Path, file_okay=False)
    return click.option("--output", type=kind, required=True, help="Write the router to this directory.")(command)


def pair_options(strong: str, weak: str) -> Callable[[Command], Command]:
    """--strong and --weak, a pair of models; the texts say what they are of."""

    def add(command: Command) -> Command:
        return click.option("--strong", metavar="MODEL", help=strong)(
            click.option("--weak", metavar="MODEL", help=weak)(command)
        )

    return add


def check_pair(strong: str | None, weak: str | None) -> None:
    """UsageError where only one of --strong and --weak is named."""
    if (strong is None) != (weak is None):
        raise click.UsageError("--strong and --weak belong together: name both, or neither")


def seed_option(text: str) -> Callable[[Command], Command]:
    """--seed: `text` says what is drawn by it."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help=text)


def last_option(default: int, text: str, most: int | None = None) -> Callable[[Command], Command]:
    """--last: how many of the newest."""
    return click.option("--last", type=click.IntRange(1, most), default=default, help=text)


def dry_run_option(text: str) -> Callable[[Command], Command]:
    """--dry-run: say what would be done, and do nothing."""
    return click.option("--dry-run", is_flag=True, help=text)


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
            self.fail(f"{value!r} is no amount of dollars: write 5 or 0.25", param, ctx)
        if not amount.is_finite() or amount < 0 or (amount == 0 and not self.zero):
            self.fail(f"{value!r}: {'0 or more' if self.zero else 'more than 0'} is needed", param, ctx)
        return f"{amount:f}"
