"""Where a stack keeps its things."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from deploy.layout import (
    StackError,
    StateDir,
    default_state_dir,
    hashed_dir,
    is_locked,
    locked,
    private_dir,
    remove_sockets,
    socket_dir,
)


def test_the_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_state_dir() == Path("/home/somebody/.local/state/routebatch")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert default_state_dir() == Path("/xdg/routebatch")
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", "/mine")
    assert default_state_dir() == Path("/mine")


def test_a_state_directory_is_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    state = StateDir.make(tmp_path / "open")
    assert state.root.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StackError, match="another user"):
        private_dir(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(StackError, match="another user"):
        private_dir(tmp_path / "theirs")


@pytest.mark.parametrize("name", ["deep" * 40, "a name; with #signs 100%"])
def test_sockets_of_an_awkward_directory_lie_in_a_short_private_one(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    directory = socket_dir(root)
    try:
        assert directory == socket_dir(root) == hashed_dir(root)
        assert directory.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(directory / "supervisor.sock.4194304"))
    finally:
        remove_sockets(root)
    assert not directory.exists()


def test_two_directories_never_share_their_sockets(tmp_path: Path) -> None:
    assert hashed_dir(tmp_path / "a") != hashed_dir(tmp_path / "b")


def test_stack_json_is_private_and_keeps_what_a_change_does_not_name(tmp_path: Path) -> None:
    state = StateDir.make(tmp_path / "state")
    state.update_stack(api_url="http://127.0.0.1:1", processes={"api": 1})
    state.update_stack(processes={"api": 2})
    assert state.read_stack() == {"api_url": "http://127.0.0.1:1", "processes": {"api": 2}}
    assert json.loads(state.stack_file.read_text()) == state.read_stack()
    assert state.stack_file.stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    state = StateDir.make(tmp_path / "state")
    state.stack_file.write_text("{")
    with pytest.raises(StackError, match=r"stack\.json is damaged"):
        state.read_stack()


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path) as held:
        assert held
        assert is_locked(path)
        with locked(path, wait=False) as second:
            assert not second
    assert not is_locked(path)


def test_a_path_with_control_characters_is_refused() -> None:
    with pytest.raises(StackError, match="control characters"):
        StateDir.at(Path("/tmp/a\nb"))
