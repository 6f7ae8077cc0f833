"""Whose configuration an operator command goes by: that of the stack whose database it asks."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from cli.stack_access import find_settings
from deploy.layout import StateDir


def write(path: Path, name: str) -> Path:
    path.write_text(f'[learning.graders.{name}]\nregex = "x"\n')
    return path


def stack(root: Path, config: Path) -> None:
    root.mkdir(exist_ok=True)
    StateDir.at(root).update_stack(config=str(config))


def test_a_stack_that_is_named_has_its_own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stack(tmp_path / "state", write(tmp_path / "stack.toml", "stacks"))
    assert [*find_settings(tmp_path / "state").learning.graders] == ["stacks"]
    write(tmp_path / "routebatch.toml", "mine")
    assert [*find_settings(tmp_path / "state").learning.graders] == ["stacks"]
    assert [*find_settings(None).learning.graders] == ["mine"]


def test_without_a_configuration_here_the_default_stacks_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", str(tmp_path / "state"))
    assert find_settings(None).learning.graders == {}  # no stack was ever there
    stack(tmp_path / "state", write(tmp_path / "stack.toml", "stacks"))
    assert [*find_settings(None).learning.graders] == ["stacks"]
    (tmp_path / "stack.toml").write_text("[learning]\nnothing = 1\n")
    with pytest.raises(click.ClickException, match="the configuration is wrong"):
        find_settings(None)
