"""`routebatch submit` against a stand-in for the API: what it sends, prints and writes, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.support.client_server import KEY, FakeApi, batch, completed, serving

Run = Callable[..., Result]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", str(tmp_path / "state"))
    with serving(FakeApi()) as api:
        monkeypatch.setenv("ROUTEBATCH_URL", api.url)
        monkeypatch.setenv("ROUTEBATCH_API_KEY", KEY)
        yield api


@pytest.fixture
def run(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("one\n\ntwo\n")

    def submit(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, ["submit", *arguments], input=stdin)

    return submit


def test_it_prints_the_batch_id_alone_and_sends_budget_and_idempotency_key(api: FakeApi, run: Run) -> None:
    result = run("prompts.txt", "--budget", "$0.10")
    assert (result.exit_code, result.stdout) == (0, "batch_1\n")
    assert [line["body"]["messages"][0]["content"] for line in api.lines] == ["one", "two"]
    assert api.created == [
        {
            "input_file_id": "file-1",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "routing": {"budget_usd": "0.10"},
        }
    ]
    run("prompts.txt", "--budget", "1")
    keys = [headers["idempotency-key"] for headers in api.headers]
    assert len(set(keys)) == 2


def test_every_option_reaches_the_api(api: FakeApi, run: Run) -> None:
    result = run(
        *("prompts.txt", "--budget", "1e-2", "--strong-share", "0.25", "--router", "random", "--on-budget", "wait"),
        *("--priority", "9", "--on-failure", "fallback", "--dedupe", "batch", "--completion-window", "2h", "--json"),
    )
    assert json.loads(result.stdout)["status"] == "validating"
    assert api.created[0]["completion_window"] == "2h"
    assert api.created[0]["routing"] == {
        "budget_usd": "0.01",
        "mode": "share",
        "strong_share": 0.25,
        "router": "random",
        "on_budget": "wait",
        "priority": 9,
        "dedupe": "batch",
        "on_failure": "fallback",
    }


def test_without_a_budget_the_server_decides(api: FakeApi, run: Run) -> None:
    error = {"message": "Name a budget.", "code": "budget_required", "type": "invalid_request_error", "param": None}
    api.refusal = (400, {"error": error})
    result = run("prompts.txt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("Error: Name a budget. (budget_required)\n")
    assert "routing" not in api.created[0]
    assert api.deleted == ["file-1"]


def test_output_implies_waiting_and_a_summary_follows(api: FakeApi, run: Run) -> None:
    api.states = [batch("validating"), batch("in_progress"), completed()]
    api.states[-1]["routing"]["models"] = {"weak": 3, "strong": 1}
    result = run("prompts.txt", "--budget", "5", "--output", "out.jsonl")
    assert result.exit_code == 0
    assert Path("out.jsonl").read_bytes() == api.contents["file-out"]
    assert "wrote out.jsonl" in result.stderr
    for cell in ("completed", "1 (25.0 %)", "$0.0123", "$5.00", "30 s"):
        assert cell in result.stdout


def test_json_is_the_final_batch_alone(api: FakeApi, run: Run) -> None:
    result = run("prompts.txt", "--budget", "5", "--wait", "--json")
    assert json.loads(result.stdout) == completed()


def test_results_go_to_stdout_alone_if_wanted(api: FakeApi, run: Run) -> None:
    result = run("prompts.txt", "--budget", "5", "--output", "-")
    assert result.stdout.encode() == api.contents["file-out"]


def test_stdin_is_submitted(api: FakeApi, run: Run) -> None:
    assert run("-", "--budget", "1", stdin="prompt,x\nhello,1\n").exit_code == 0
    assert [line["body"]["messages"][0]["content"] for line in api.lines] == ["hello"]


def test_an_openai_batch_file_arrives_as_it_is(api: FakeApi, run: Run) -> None:
    content = '\ufeff{"custom_id":"a","body":{}}\nnot json\n'.encode()
    Path("b.jsonl").write_bytes(content)
    assert run("b.jsonl", "--budget", "1").exit_code == 0
    assert api.uploads == [content]


def test_a_failed_validation_names_the_lines_of_the_clients_own_file(api: FakeApi, run: Run) -> None:
    errors = {"object": "list", "data": [{"code": "bad", "message": "No.", "param": None, "line": 2}]}
    api.states = [batch("failed", errors=errors)]
    result = run("prompts.txt", "--budget", "1", "--output", "out.jsonl")
    assert result.exit_code == 1
    assert "line 3: bad: No.\n" in result.stderr
    assert not Path("out.jsonl").exists()


def test_a_batch_that_its_budget_stopped_exits_with_three(api: FakeApi, run: Run) -> None:
    api.contents["file-err"] = b'{"custom_id":"b"}\n'
    api.states = [completed(error_file_id="file-err", routing=completed()["routing"] | {"incomplete": True})]
    result = run("prompts.txt", "--budget", "1", "--errors", "err.jsonl", "--output", "out.jsonl")
    assert result.exit_code == 3
    assert "stopped by its budget" in result.stdout
    assert Path("err.jsonl").read_bytes() == api.contents["file-err"]


def test_a_batch_of_which_nothing_was_answered_exits_with_one_and_an_empty_file(api: FakeApi, run: Run) -> None:
    counts = {"total": 4, "completed": 0, "failed": 4}
    api.states = [batch("completed", request_counts=counts, error_file_id="file-out")]
    result = run("prompts.txt", "--budget", "1", "--output", "out.jsonl")
    assert result.exit_code == 1
    assert Path("out.jsonl").read_bytes() == b""
    assert "no request was answered" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["prompts.txt", "--budget", "0"],
        ["prompts.txt", "--budget", "-1"],
        ["prompts.txt", "--budget", "nan"],
        ["prompts.txt", "--budget", "much"],
        ["missing.txt", "--budget", "1"],
        ["prompts.txt", "--mode", "share"],
        ["prompts.txt", "--mode", "plan", "--threshold", "0.5"],
        ["prompts.txt", "--mode", "target_quality"],
        ["prompts.txt", "--target-quality", "95"],
        ["prompts.txt", "--strong-share", "1.5"],
        ["prompts.txt", "--output", "nowhere/out.jsonl"],
        ["prompts.txt", "--output", "prompts.txt"],
        ["prompts.txt", "--output", "o", "--errors", "o"],
        ["prompts.txt", "--output", "-", "--json"],
        ["prompts.txt", "--output", "."],
        ["prompts.txt", "--url", "ftp://x"],
    ],
)
def test_wrong_usage_exits_with_two_before_anything_is_sent(api: FakeApi, run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert not api.uploads
    assert Path("prompts.txt").read_text() == "one\n\ntwo\n"


def test_a_bad_file_is_named_by_line_and_never_uploaded(api: FakeApi, run: Run) -> None:
    Path("bad.csv").write_text("prompt\nok\n' '\n\n\"open\n")
    result = run("bad.csv", "--budget", "1")
    assert result.exit_code == 1
    assert "line 5: not CSV" in result.stderr
    assert not api.uploads
