"""docs/reference/cli.md is what the commands' own help says."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import click
import pytest

from cli.main import COMMANDS, GROUPS, main
from cli.reference import reference
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "cli.md"


def every_command() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(main, info_name="routebatch")

    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
            yield from walk(f"{path} {name}", inner)

    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        yield from walk(name, command)


ALL = dict(every_command())


def test_the_page_is_what_make_docs_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "the commands have changed: run `make docs`"


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = reference()
    monkeypatch.setenv("COLUMNS", "40")
    assert reference() == wide


def test_every_command_and_every_option_stands_on_the_reference() -> None:
    text = reference()
    for path, command in ALL.items():
        section = text.split(f" routebatch {path}\n", 1)[1].split("\n#", 1)[0]
        for parameter in command.params if not isinstance(command, click.Group) else ():
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in section, (path, parameter.opts)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_how_the_commands_own_begins(name: str) -> None:
    module, attribute, text = COMMANDS[name]
    command = getattr(import_module(module), attribute)
    assert " ".join(command.help.split()).startswith(text.rstrip(".")), command.help


@pytest.mark.parametrize("path", ALL)
def test_help_is_sentences(path: str) -> None:
    command = ALL[path]
    assert (command.help or "").strip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option | click.Argument):
            assert parameter.help, f"{parameter.opts} has no help"
            assert parameter.help.endswith("."), parameter.help
        if isinstance(parameter, click.Option) and parameter.help:
            assert parameter.help[0].isupper(), parameter.help
            assert not parameter.help.startswith("Default"), f"{parameter.help}: say what it does first"


def test_no_command_stands_twice() -> None:
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
