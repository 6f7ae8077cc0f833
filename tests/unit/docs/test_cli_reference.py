"""docs/reference/cli.md is what the commands say of themselves."""

from __future__ import annotations

import pytest

from cli.main import COMMANDS
from cli.reference import reference
from tests.support.paths import ROOT


def test_the_page_is_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # how wide a terminal is changes nothing
    assert (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_command_and_subcommand_has_a_section_and_every_option_a_meaning() -> None:
    page = reference()
    assert all(f"### routebatch {name}\n" in page for name in COMMANDS)
    assert "### routebatch routers promote\n" in page
    assert "` |  |" not in page
