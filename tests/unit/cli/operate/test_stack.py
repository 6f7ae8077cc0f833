"""`routebatch down` and `doctor` where nothing runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import main


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_down_without_a_stack_says_so_and_touches_nothing(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(main, ["down", "--state-dir", str(tmp_path / "state")])
    assert result.exit_code == 0
    assert "no stack runs" in result.output
    assert not (tmp_path / "state").exists()


def test_doctor_names_a_wrong_configuration_and_fails(runner: CliRunner, tmp_path: Path) -> None:
    Path("routebatch.toml").write_text("[budget]\nno_such_key = 1\n")
    result = runner.invoke(main, ["doctor", "--state-dir", str(tmp_path / "state"), "--json"])
    checks = {check["name"]: check for check in json.loads(result.output)}
    assert result.exit_code == 1
    assert checks["configuration"]["ok"] is False
    assert "no_such_key" in checks["configuration"]["detail"]
    assert checks["stack"] == {"name": "stack", "ok": None, "detail": checks["stack"]["detail"]}


def test_doctor_finds_an_unreachable_database_without_showing_its_password(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("routebatch.toml").write_text("")
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", "postgresql+psycopg://me:hush@127.0.0.1:9/none")
    result = runner.invoke(main, ["doctor", "--state-dir", str(tmp_path / "state")])
    assert result.exit_code == 1
    assert "not reachable" in result.output
    assert "hush" not in result.output
