"""The command table: every command loads, and help needs nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from cli.main import COMMANDS, main

HEAVY = (
    *("aiohttp", "celery", "fastapi", "jinja2", "matplotlib", "numpy", "openai", "pydantic", "rich", "scipy"),
    *("sqlalchemy", "torch", "transformers"),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_loads_and_has_help(name: str) -> None:
    module, attribute, _ = COMMANDS[name]
    assert isinstance(getattr(import_module(module), attribute), click.Command)
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")


def test_help_imports_nothing_heavy() -> None:
    commands = [["--help"], ["report", "costs", "--help"], *([name, "--help"] for name in COMMANDS)]
    code = (
        "import sys\nfrom cli.main import main\n"
        f"for arguments in {commands!r}:\n"
        "    try: main(arguments)\n"
        "    except SystemExit: pass\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    if heavy: sys.exit(f'{arguments}: {heavy}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2


def test_a_command_without_its_packages_says_what_to_install() -> None:
    # as on a machine that only calls the API; in a process of its own, for modules stay imported
    code = "import sys\nsys.modules['psutil'] = None\nfrom cli.main import main\nmain(['down'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: this command needs psutil")
    assert "pip install '.[server,embedded]'" in done.stderr
