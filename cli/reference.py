"""The reference of the command line, from the commands themselves: `python -m cli.reference > docs/reference/cli.md`.

A test holds docs/reference/cli.md against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

import click

from cli.main import GROUPS, main

HEAD = """# Command line

This page is generated: `make docs` writes it from the commands' own help.

Address and key of the commands over HTTP come from `--url` and `--api-key`, then from `ROUTEBATCH_URL` and
`ROUTEBATCH_API_KEY`, then from the stack of the default state directory (`$ROUTEBATCH_STATE_DIR`, else
`$XDG_STATE_HOME/routebatch`, else `~/.local/state/routebatch`); that stack's key is sent to that stack only. Exit
codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by the budget.
"""


def reference() -> str:
    """The whole page as Markdown: commands in the groups of `routebatch --help`."""
    context = click.Context(main, info_name="routebatch")
    parts = [HEAD]
    for title, group in GROUPS.items():
        parts.append(f"## {title}\n")
        for name in group:
            command = main.get_command(context, name)
            assert command is not None
            parts += _sections(command, f"routebatch {name}", context)
    return "\n".join(parts)


def _sections(command: click.Command, path: str, parent: click.Context) -> Iterator[str]:
    """A section of the command, and one of each command below it."""
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    yield f"### {path}\n"
    yield f"```text\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```\n"
    if command.help:
        yield f"{_paragraphs(command.help)}\n"
    if rows := [row for row in (_option(parameter, context) for parameter in command.get_params(context)) if row]:
        yield "\n".join(["| option | meaning |", "| --- | --- |", *rows, ""])
    if command.epilog:
        yield f"{_paragraphs(command.epilog)}\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _sections(child, f"{path} {name}", context)


def _paragraphs(text: str) -> str:
    """Help as click shows it: paragraphs, and blocks that keep their lines."""
    shown = []
    for paragraph in cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            shown.append("```text\n" + paragraph.removeprefix("\b").strip("\n") + "\n```")
        else:
            shown.append(" ".join(paragraph.split()))
    return "\n\n".join(shown)


def _option(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if record is None or not record[1] or "--help" in parameter.opts:
        return None
    names, meaning = (" ".join(text.split()).replace("|", "\\|") for text in record)
    return f"| `{names}` | {meaning} |"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
