"""How client commands find the server and the key, and what they say of errors."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.client import Address, find_address
from cli.main import main
from tests.support.client_server import FakeApi


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def write_stack(state: Path, **content: str) -> None:
    (state / "stack.json").write_text(json.dumps(content))


def test_a_refused_key_is_said(api: FakeApi) -> None:
    result = run("status", "batch_1", "--api-key", "rb-wrong")
    assert result.exit_code == 1
    assert "the API key was refused: Unknown API key." in result.stderr
    assert "rb-wrong" not in result.output


def test_a_server_that_is_not_there_is_said(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.client.RETRIES", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = run("status", "batch_1", "--url", url, "--api-key", "k")
    assert result.exit_code == 1
    assert f"cannot reach {url}/v1" in result.stderr


def test_without_a_stack_it_says_how_to_connect(state: Path) -> None:
    result = run("status", "batch_1")
    assert result.exit_code == 1
    assert "routebatch up" in result.stderr


def test_options_win_over_the_environment_and_that_over_the_stack(state: Path) -> None:
    write_stack(state, api_url="http://127.0.0.1:1", api_key="stack-key")
    assert find_address(None, None) == Address("http://127.0.0.1:1/v1", "stack-key")
    assert find_address("https://host/v1/", "k") == Address("https://host/v1", "k")
    assert find_address(None, "k") == Address("http://127.0.0.1:1/v1", "k")
    assert find_address("http://127.0.0.1:1", None).key == "stack-key"


def test_the_stacks_key_is_never_sent_elsewhere(state: Path) -> None:
    write_stack(state, api_url="http://127.0.0.1:1", api_key="stack-key")
    result = run("status", "batch_1", "--url", "http://127.0.0.1:2")
    assert result.exit_code == 1
    assert "no API key for http://127.0.0.1:2" in result.stderr


def test_a_key_shows_in_no_repr() -> None:
    assert "secret" not in repr(Address("http://x/v1", "secret"))


def test_a_damaged_stack_file_is_said(state: Path) -> None:
    (state / "stack.json").write_text("{")
    result = run("status", "batch_1")
    assert result.exit_code == 1
    assert "is damaged" in result.stderr
