"""`routebatch status`, `watch` and `list`: how batches stand."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.support.client_server import FakeApi, batch, completed


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


def test_a_batch_that_failed_validation_counts_its_errors(api: FakeApi) -> None:
    api.states = [batch("failed", errors={"data": [{"code": "empty_file", "message": "It is empty.", "line": None}]})]
    rows = [line.strip("│").split("│") for line in run("status", "batch_1").stdout.splitlines()]
    assert ["errors", "1"] in [[cell.strip() for cell in row] for row in rows]


def test_list_pages_up_to_the_limit(api: FakeApi) -> None:
    api.listed = [completed(id=f"batch_{number}") for number in range(250)]
    printed = json.loads(run("list", "--limit", "230", "--json").stdout)
    assert [listed["id"] for listed in printed] == [f"batch_{number}" for number in range(230)]
    table = run("list", "--limit", "3").stdout
    assert "batch_2" in table
    assert "batch_3" not in table
