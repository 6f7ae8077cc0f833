"""The page of all commands, docs/reference/cli.md, written from the commands themselves.

`python -m cli.reference > docs/reference/cli.md`, or `make docs`. It imports every command, so it needs what they need.
Nothing depends on the width of a terminal.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from cli.epilog import VERBATIM
from cli.main import GROUPS, main

INTRODUCTION = """\
# Commands

Written by `make docs` from the commands' own help, which `routebatch COMMAND --help` shows, too.

Commands **over HTTP** need an address and a key. They come from `--url` and `--api-key`, then from `ROUTEBATCH_URL` and
`ROUTEBATCH_API_KEY`, then from the stack of the default state directory (`$ROUTEBATCH_STATE_DIR`, else
`$XDG_STATE_HOME/routebatch`, else `~/.local/state/routebatch`). That stack's key is sent to that stack only.

Commands **on the database** are the operator's. They use the database of the stack that `--state-dir` names, else the
configured one, else that of the stack in the default state directory.

Commands **from files** work on this machine. They need no services, unless `--router` names a router version.

Everywhere `--json` prints JSON alone on stdout, tables and messages are for people, and progress bars appear on
terminals only. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by the budget, 130 interrupted; where a command
means more by them, its section says so.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    context = click.Context(main, info_name="routebatch", **main.context_settings)
    return "\n".join([INTRODUCTION, *_contents(), *_sections(context)])


def _contents() -> Iterator[str]:
    for title, commands in GROUPS.items():
        yield f"- {title}: " + ", ".join(f"[{name}](#routebatch-{name})" for name in commands)
    yield ""


def _sections(context: click.Context) -> Iterator[str]:
    for title, commands in GROUPS.items():
        yield f"## {title}\n"
        for name in commands:
            command = main.get_command(context, name)
            assert command is not None
            yield from _command(command, click.Context(command, info_name=name, parent=context), "###")


def _command(command: click.Command, context: click.Context, heading: str) -> Iterator[str]:
    """A command, and below it the commands of a group."""
    yield f"{heading} {context.command_path}\n"
    yield from _text(command.help)
    if not isinstance(command, click.Group):
        yield f"```\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
        yield from _parameters(command, context)
    yield from _text(command.epilog)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(inner, click.Context(inner, info_name=name, parent=context), f"{heading}#")


def _parameters(command: click.Command, context: click.Context) -> Iterator[str]:
    """Arguments and options, a table each; --help, which all have, is left out."""
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if arguments:
        yield "| argument | what it is |\n| --- | --- |"
        yield from (
            f"| `{each.make_metavar(context).strip('[].')}` | {_plain(each.help or '')} |" for each in arguments
        )
        yield ""
    if options:
        yield "| option | what it does |\n| --- | --- |"
        yield from (_option(option, context) for option in options)
        yield ""


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} is hidden"
    names = record[0].replace(" RANGE", "").replace("|", "\\|")
    extra = option.get_help_extra(context)
    facts = ["required"] if option.required else []
    facts += [f"`{extra['range']}`"] if "range" in extra else []
    facts += [f"default: `{extra['default']}`"] if "default" in extra else []
    facts += [f"environment: `{name}`" for name in extra.get("envvars", ())]
    behind = f" ({'; '.join(facts)})" if facts else ""
    return f"| `{names}` | {_plain(option.help or '')}{behind} |"


def _text(text: str | None) -> Iterator[str]:
    """Paragraphs of a help text; what click is told to leave as it is becomes a block of code."""
    for paragraph in inspect.cleandoc(text or "").split("\n\n"):
        first, *lines = paragraph.splitlines() or [""]
        if first == VERBATIM:
            yield "\n".join(["```", *(line.strip() for line in lines if line.startswith(" ")), "```\n"])
        elif paragraph:
            yield _plain(" ".join(paragraph.split())) + "\n"


def _plain(text: str) -> str:
    """What Markdown would take for HTML, emphasis or a cell's end, outside of code, is no markup here."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<>*_|])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
