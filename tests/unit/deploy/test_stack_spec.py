"""What `up` decides before it starts anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.configuration import find_config
from deploy.embedded import PostgresServer, ValkeyServer
from deploy.layout import StackError, StateDir, remove_sockets
from deploy.processes import PROCESSES
from deploy.stack_spec import Options, choose_port, make_spec


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDir]:
    monkeypatch.chdir(tmp_path)
    actual = StateDir.make(tmp_path / "state")
    (actual.root / "routebatch.toml").write_text("")
    yield actual
    remove_sockets(actual.root)


FREE = Options(port=0, flower_port=0)


def test_every_process_learns_its_addresses_by_environment(state: StateDir) -> None:
    spec = make_spec(FREE, state, caller={"OPENAI_API_KEY": "theirs"})
    assert spec.env["OPENAI_API_KEY"] == "theirs"
    assert spec.env["ROUTEBATCH_STATE_DIR"] == str(state.root)
    assert spec.env["ROUTEBATCH_CONFIG"] == str(state.root / "routebatch.toml")
    assert spec.env["ROUTEBATCH_DATABASE_URL"].startswith("postgresql+psycopg:///routebatch?host=")
    assert spec.env["ROUTEBATCH_BROKER_URL"].startswith("redis+socket:///")
    assert spec.api_url == f"http://127.0.0.1:{spec.env['ROUTEBATCH_API_PORT']}"
    assert spec.env["ROUTEBATCH_ARTIFACT_URL"] == spec.addresses()["artifact_url"] == str(state.root / "artifacts")
    assert spec.env["FLOWER_BASIC_AUTH"] == f"routebatch:{spec.flower_password}"
    assert spec.env["TMPDIR"] == str(state.temporary)  # what a killed process leaves goes with the stack


def test_an_artifact_store_is_the_same_one_wherever_a_process_stands(state: StateDir, tmp_path: Path) -> None:
    (state.root / "routebatch.toml").write_text('artifact_url = "routers"')
    assert make_spec(FREE, state, caller={}).addresses()["artifact_url"] == str(tmp_path / "routers")
    named = {"ROUTEBATCH_ARTIFACT_URL": "s3://bucket/routers"}
    assert make_spec(FREE, state, caller=named).env["ROUTEBATCH_ARTIFACT_URL"] == "s3://bucket/routers"


def test_processes_start_after_the_servers_and_the_edge_comes_last(state: StateDir) -> None:
    spec = make_spec(FREE, state, caller={})
    names = [entry.name for entry in spec.entries]
    assert names == ["postgres", "valkey", "api", "score", "dispatch", "train", "beat", "flower"]
    assert [entry.stop_signal for entry in spec.entries if entry.name in ("postgres", "valkey")] == ["INT", "TERM"]


def test_servers_that_are_named_are_not_embedded(state: StateDir) -> None:
    database = {"ROUTEBATCH_DATABASE_URL": "postgresql+psycopg://db/routebatch"}
    broker = {"ROUTEBATCH_BROKER_URL": "redis://broker/0"}
    assert [type(server) for server in make_spec(FREE, state, caller=database).servers] == [ValkeyServer]
    assert [type(server) for server in make_spec(FREE, state, caller=broker).servers] == [PostgresServer]
    both = make_spec(FREE, state, caller=database | broker)
    assert both.servers == ()
    assert [entry.name for entry in both.entries] == [process.name for process in PROCESSES]
    assert both.env["ROUTEBATCH_DATABASE_URL"] == database["ROUTEBATCH_DATABASE_URL"]


def test_flowers_password_is_made_once_and_kept_private(state: StateDir) -> None:
    first = make_spec(FREE, state, caller={}).flower_password
    assert make_spec(FREE, state, caller={}).flower_password == first
    assert len(first) >= 20
    assert state.secrets_file.stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_named_with_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StackError, match=r"choose another with --port"):
            choose_port(taken.getsockname()[1], "127.0.0.1", "--port")


def test_the_configuration_is_the_given_one_else_here_else_in_the_state_directory(state: StateDir) -> None:
    here = Path("routebatch.toml")
    assert find_config(None, state) == state.root / "routebatch.toml"
    here.write_text("")
    assert find_config(None, state) == here.absolute()
    given = Path("other.toml")
    with pytest.raises(StackError, match=r"other\.toml: there is no such file"):
        find_config(given, state)
    given.write_text("")
    assert find_config(given, state) == given.absolute()


def test_a_mistake_in_the_configuration_is_named_before_anything_runs(state: StateDir) -> None:
    file = state.root / "routebatch.toml"
    file.write_text("[budget]\nno_such_key = 1\n")
    with pytest.raises(StackError, match=rf"{file}.*no_such_key"):
        make_spec(FREE, state, caller={})
    file.write_text('[models.weak]\nname = "unheard-of"\nbase_url = "http://127.0.0.1:9/v1"\n')
    with pytest.raises(StackError, match="weak"):
        make_spec(FREE, state, caller={})
    assert "ROUTEBATCH_CONFIG" not in os.environ


def test_without_a_configuration_the_error_shows_how_to_write_one(state: StateDir) -> None:
    (state.root / "routebatch.toml").unlink()
    with pytest.raises(StackError, match=r"(?s)--config.*\[models\.strong\].*candidates"):
        find_config(None, state)
