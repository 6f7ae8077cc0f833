"""What clients do with batches: `status`, `watch`, `results`, `list`, `pause`, `resume`, `cancel`; and how the client
finds the server and speaks of its errors."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.client import Address, find_address
from cli.main import main
from tests.support.client_server import KEY, FakeApi, batch, completed, serving

Run = Callable[..., Result]


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The default state directory."""
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def api(state: Path) -> Iterator[FakeApi]:
    """A stand-in that the default state directory's stack.json points to."""
    with serving(FakeApi()) as api:
        write_stack(state, api_url=api.url, api_key=KEY)
        yield api


def write_stack(state: Path, **content: str) -> None:
    (state / "stack.json").write_text(json.dumps(content))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_status_shows_a_batch_as_a_table_or_as_it_came(api: FakeApi) -> None:
    why = {"paused": "budget", "paused_reason": "too little money"}
    api.states = [batch("in_progress", routing=batch("in_progress")["routing"] | why)]
    shown = run("status", "batch_1").stdout
    assert "in_progress, paused: budget" in shown
    assert "too little money" in shown
    assert json.loads(run("status", "batch_1", "--json").stdout) == api.states[0]


def test_an_unknown_batch_is_one_clear_line(api: FakeApi) -> None:
    result = run("status", "batch_2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: No such batch. (batch_not_found)\n"


def test_watch_follows_to_the_end_though_the_server_fails_meanwhile(api: FakeApi) -> None:
    api.failures = [404]
    assert run("watch", "batch_1").exit_code == 1
    api.failures = [503, 500]
    result = run("watch", "batch_1")
    assert result.exit_code == 0
    assert "completed" in result.stdout


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_watch_exits_with_one_where_a_batch_did_not_complete(api: FakeApi, status: str) -> None:
    api.states = [batch(status)]
    assert run("watch", "batch_1", "--json").exit_code == 1


def test_what_others_wrote_is_never_read_as_markup(api: FakeApi) -> None:
    api.states = [batch("completed", routing={"models": {"[red]m[/nonsense]": 1}})]
    assert "[red]m[/nonsense]" in run("status", "batch_1").stdout


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


def test_a_batch_that_failed_validation_counts_its_errors(api: FakeApi) -> None:
    api.states = [batch("failed", errors={"data": [{"code": "empty_file", "message": "It is empty.", "line": None}]})]
    rows = [line.strip("│").split("│") for line in run("status", "batch_1").stdout.splitlines()]
    assert ["errors", "1"] in [[cell.strip() for cell in row] for row in rows]


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


def test_list_pages_up_to_the_limit(api: FakeApi) -> None:
    api.listed = [completed(id=f"batch_{number}") for number in range(250)]
    found = json.loads(run("list", "--limit", "230", "--json").stdout)
    assert [listed["id"] for listed in found] == [f"batch_{number}" for number in range(230)]
    table = run("list", "--limit", "3").stdout
    assert "batch_2" in table
    assert "batch_3" not in table


def test_cancel_waits_if_asked_and_says_if_the_batch_was_faster(api: FakeApi) -> None:
    result = run("cancel", "batch_1")
    assert (result.exit_code, api.acted) == (0, ["/v1/batches/batch_1/cancel"])
    assert "cancelling" in result.stdout
    api.states = [batch("cancelling"), batch("cancelled")]
    assert run("cancel", "batch_1", "--wait").exit_code == 0
    api.states = [completed()]
    assert run("cancel", "batch_1", "--wait").exit_code == 1


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_pause_and_resume_ask_for_it_and_show_the_batch(api: FakeApi, action: str) -> None:
    result = run(action, "batch_1", "--json")
    assert (result.exit_code, api.acted) == (0, [f"/v1/batches/batch_1/{action}"])
    assert json.loads(result.stdout)["id"] == "batch_1"


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
