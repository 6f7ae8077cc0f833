"""`routebatch top-up`, `retry` and `results --all` against the real API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from openai import OpenAI

from cli.main import main
from routing_service.events import Event, IngestDue
from routing_service.ingest.ingest import ingest
from routing_service.money.pricing import price_book
from tests.support.api_server import Api
from tests.support.extend import ask, completed, end, shown, submit


def run(api: Api, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--url", api.url, "--api-key", api.key])


def answer_continuations(api: Api, monkeypatch: pytest.MonkeyPatch, *, answered: int) -> None:
    """Every continuation is ingested as soon as it is announced, and ends with so many answers."""

    def announced(event: Event) -> None:
        if isinstance(event, IngestDue):
            assert ingest(api.database, api.settings, price_book(api.settings), event.batch_id)
            end(api, event.batch_id, answered)

    monkeypatch.setattr(api.publisher, "publish", announced)


def custom_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_a_running_batch_is_topped_up_and_keeps_its_id(api: Api, client: OpenAI) -> None:
    batch_id = submit(client)
    result = run(api, "top-up", batch_id, "--budget", "$0.50")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{batch_id}\n", "")
    topped = json.loads(run(api, "top-up", batch_id, "--budget", "0.50", "--json").stdout)
    assert topped["routing"]["budget_usd"] == "2.00"


def test_a_completed_batch_that_is_topped_up_or_retried_names_its_continuation(api: Api, client: OpenAI) -> None:
    for command in (["top-up", "--budget", "1"], ["retry"], ["retry", "--budget", "1"]):
        first = completed(api, client)
        result = run(api, command[0], first, *command[1:])
        second = shown(client.batches.retrieve(first))["continued_by"]
        assert (result.exit_code, result.stdout) == (0, f"{second}\n")
        assert result.stderr == f"batch {second} continues {first}\n"


def test_a_refusal_is_one_clear_line(api: Api, client: OpenAI) -> None:
    first = completed(api, client)
    second = ask(client, first, "retry").id
    result = run(api, "retry", first)
    assert result.exit_code == 1
    assert result.stderr == f"Error: Batch {first} is continued by {second} already. (batch_continued)\n"
    assert run(api, "top-up", first).exit_code == 2
    assert run(api, "retry", first, "--budget", "0").exit_code == 2
    assert run(api, "retry", "a/b").exit_code == 1


@pytest.mark.parametrize(("answered", "code"), [(3, 0), (1, 3)])
def test_a_retry_waits_if_asked_and_its_exit_code_says_how_it_ended(
    api: Api, client: OpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answered: int, code: int
) -> None:
    first = completed(api, client)
    answer_continuations(api, monkeypatch, answered=answered)
    result = run(api, "retry", first, "--output", str(tmp_path / "out.jsonl"), "--json")
    assert result.exit_code == code, result.stderr
    assert json.loads(result.stdout)["routing"]["continues"] == first
    assert custom_ids(tmp_path / "out.jsonl") == ["request-3", "request-4", "request-5"][:answered]


def test_results_of_a_continuation_are_its_own_and_with_all_those_of_the_whole_chain(
    api: Api, client: OpenAI, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = completed(api, client)
    answer_continuations(api, monkeypatch, answered=1)
    second = ask(client, first, "retry", "1").id
    third = ask(client, second, "retry", "1").id
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    assert run(api, "results", second, "-o", str(out)).exit_code == 0
    assert custom_ids(out) == ["request-3"]
    for batch_id in (first, second, third):
        assert run(api, "results", batch_id, "--all", "-o", str(out), "--errors", str(errors)).exit_code == 0
        assert custom_ids(out) == ["request-1", "request-2", "request-3", "request-4"]
        assert custom_ids(errors) == ["request-5"]
    rows = [line.strip("│").split("│") for line in run(api, "status", second).stdout.splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert ["continues", first] in cells
    assert ["continued by", third] in cells


def test_results_of_all_wait_for_the_last_of_the_chain(api: Api, client: OpenAI) -> None:
    first = completed(api, client)
    second = ask(client, first, "retry").id
    result = run(api, "results", first, "--all")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"batch {second} is validating" in result.stderr
    assert run(api, "results", first).exit_code == 0
