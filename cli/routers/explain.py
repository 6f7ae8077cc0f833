"""`routebatch explain`: why a router estimates what it does for a prompt."""

from __future__ import annotations

import sys
from typing import Any

import click

from cli.epilog import epilog
from cli.options import json_option
from cli.output import print_json, print_table
from cli.routers.choice import find_router, router_option

STDIN = "-"
MAX_CHARACTERS = 16_000_000
MAX_CELL = 100  # characters of a text in a table


@click.command(epilog=epilog('routebatch explain --router mine --prompt "How many primes are below 100?"'))
@router_option
@click.option("--prompt", required=True, metavar="TEXT", help="Explain this prompt; - reads it from stdin, whole.")
@json_option
def explain(wanted: str | None, prompt: str, as_json: bool) -> None:
    """Explain a router's estimate for a prompt.

    What is shown depends on the router: the terms and features that moved the estimate, the nearest comparisons it was
    fitted on and their outcomes, or the parts of the prompt without which it would be another.
    """
    explanation = find_router(wanted).explain(_stdin() if prompt == STDIN else prompt)
    if as_json:
        print_json(explanation)
    else:
        print_object(str(explanation.get("router", "router")), explanation)


def _stdin() -> str:
    data = sys.stdin.buffer.read(MAX_CHARACTERS + 1)
    if len(data) > MAX_CHARACTERS:
        raise click.ClickException(f"the prompt is longer than {MAX_CHARACTERS:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"the prompt is not UTF-8 text: byte 0x{data[error.start]:02x}") from error


def print_object(title: str, values: dict[str, Any]) -> None:
    """Single figures in one table; a table for every list of objects; what is nested below them."""
    single = [(key, value) for key, value in values.items() if not _nested(value)]
    rows = [(key.replace("_", " "), _cell(value)) for key, value in single if key != "router"]
    print_table([title, ""], rows, numeric=[""])
    for key, value in values.items():
        name = f"{title}: {key.replace('_', ' ')}"
        if isinstance(value, dict):
            print_object(name, value)
        elif _nested(value):
            _print_list(name, value)


def _print_list(title: str, items: list[dict[str, Any]]) -> None:
    if any(_nested(value) for item in items for value in item.values()):
        for number, item in enumerate(items, 1):
            print_object(f"{title} {number}: {item['router']}" if "router" in item else f"{title} {number}", item)
        return
    columns = list(dict.fromkeys(key for item in items for key in item))
    numeric = [key for key in columns if all(isinstance(item.get(key, 0), int | float) for item in items)]
    rows = [[_cell(item.get(key, "")) for key in columns] for item in items]
    click.echo(title)  # above the table, not in it: there it would be broken to the table's width
    print_table(_spaced(columns), rows, numeric=_spaced(numeric))


def _spaced(names: list[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value) or "-"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}…"
