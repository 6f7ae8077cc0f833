"""`routebatch results`: answers and errors go to stdout or to files, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.support.client_server import FakeApi, batch, completed


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_results_go_to_stdout_or_to_files(api: FakeApi) -> None:
    api.contents["file-err"] = b"{}\n"
    api.states = [completed(error_file_id="file-err")]
    assert run("results", "batch_1").stdout_bytes == api.contents["file-out"]
    assert run("results", "batch_1", "-o", "o", "--errors", "e").exit_code == 0
    assert (Path("o").read_bytes(), Path("e").read_bytes()) == (api.contents["file-out"], b"{}\n")
    assert run("results", "batch_1", "--errors", "-").stdout == "{}\n"


def test_results_print_the_batch_as_json_beside_their_files(api: FakeApi) -> None:
    api.states = [completed()]
    result = run("results", "batch_1", "-o", "out.jsonl", "--json")
    assert json.loads(result.stdout) == api.states[0]
    assert Path("out.jsonl").read_bytes() == api.contents["file-out"]
    assert run("results", "batch_1", "--json").exit_code == 2  # both want stdout


def test_a_download_cut_short_leaves_the_old_file_alone(api: FakeApi) -> None:
    api.states, api.announced = [completed()], 1_000
    Path("o").write_text("old")
    result = run("results", "batch_1", "-o", "o")
    assert result.exit_code == 1
    assert "arrived with 18 of its 1000 bytes" in result.stderr
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["o"]
    assert Path("o").read_text() == "old"


@pytest.mark.parametrize(("status", "words"), [("in_progress", "is in_progress"), ("failed", "failed its validation")])
def test_a_batch_without_results_says_why(api: FakeApi, status: str, words: str) -> None:
    api.states = [batch(status)]
    result = run("results", "batch_1", "-o", "o")
    assert result.exit_code == 1
    assert words in result.stderr
    assert not Path("o").exists()
