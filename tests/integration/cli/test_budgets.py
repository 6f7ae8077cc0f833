"""`routebatch budgets`, as an operator runs it, and what a client then sees of its batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from routing_service.batches.view import TotalsCache, batch_object
from routing_service.db import Database
from tests.support.factories import make_key
from tests.support.key_limits import WEAK, Key, worst_case
from tests.support.planned import NANO


@pytest.fixture
def budgets(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["budgets", *arguments])

    return run


def _key(database: Database, name: str = "team a") -> str:
    with database.transaction() as session:
        return make_key(session, name).id


def test_a_limit_is_set_by_name_topped_up_shown_and_removed(budgets: Any, database: Database) -> None:
    key_id = _key(database)
    assert "$5.00 a day, $5.00 left until " in budgets("set", "team a", "--per", "day", "--limit", "5").stdout
    topped = json.loads(budgets("top-up", key_id, "--per", "day", "--add", "$0.5", "--json").stdout)
    assert (topped["limit_usd"], topped["left_usd"], topped["next_limit_usd"]) == ("5.50", "5.50", "5.00")
    assert budgets("set", key_id, "--per", "all", "--limit", "100").exit_code == 0
    day, whole = json.loads(budgets("show", "--json").stdout)
    assert day == topped
    assert (whole["key_id"], whole["per"], whole["limit_usd"], whole["resets_at"]) == (key_id, "all", "100.00", None)
    shown = budgets("show", "team a").stdout
    assert "$5.50" in shown
    assert "never" in shown
    assert "no limit a day any more" in budgets("remove", key_id, "--per", "day").stdout
    assert len(json.loads(budgets("show", key_id, "--json").stdout)) == 1


def test_without_limits_show_says_so(budgets: Any, database: Database) -> None:
    key_id = _key(database)
    assert budgets("show").stdout == "no key has a limit\n"
    assert key_id in budgets("show", "team a").stdout
    assert json.loads(budgets("show", "--json").stdout) == []


def test_a_limit_below_what_is_used_says_so(budgets: Any, database: Database) -> None:
    key = Key(database, NANO)
    (ticket,) = key.claim(key.batch([WEAK])).tickets
    result = budgets("set", key.id, "--per", "day", "--limit", "0")
    assert result.exit_code == 0
    assert "nothing more is reserved until less than $0.00 is" in result.stderr
    (shown,) = json.loads(budgets("show", "--json").stdout)
    assert shown["limit_usd"] == shown["reserved_usd"] == f"{ticket.reserved_nano / NANO:.9f}".rstrip("0")
    assert shown["left_usd"] == "0.00"


def test_what_cannot_be_done_is_one_line(budgets: Any, database: Database) -> None:
    _key(database, "twins")
    _key(database, "twins")
    single = _key(database, "single")
    for arguments, words in {
        ("show", "nobody"): "there is no key 'nobody'",
        ("set", "twins", "--per", "day", "--limit", "1"): "2 keys are called 'twins': name one by its id",
        ("top-up", single, "--per", "day", "--add", "1"): "has no limit for a day",
        ("remove", single, "--per", "all"): "has no limit for all its time",
        ("set", single, "--per", "day", "--limit", "2000000000"): "at most a billion dollars",
    }.items():
        result = budgets(*arguments)
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_amounts_and_periods_are_checked_as_usage(budgets: Any) -> None:
    for arguments in (
        ("set", "k", "--per", "week", "--limit", "1"),
        ("set", "k", "--per", "day", "--limit", "-1"),
        ("set", "k", "--per", "day"),
        ("top-up", "k", "--per", "day", "--add", "0"),
        ("top-up", "k", "--per", "day", "--add", "nan"),
    ):
        assert budgets(*arguments).exit_code == 2


def test_the_client_sees_that_its_keys_budget_holds_the_batch_up(budgets: Any, database: Database) -> None:
    key = Key(database, worst_case(database, WEAK) - 1)
    batch_id = key.batch([WEAK])
    key.claim(batch_id)

    def routing() -> dict[str, Any]:
        with database.transaction() as session:
            seen = batch_object(session, TotalsCache(), key.id, batch_id)
        assert seen["status"] == "in_progress"
        return dict(seen["routing"])

    assert routing()["paused"] == "key_budget"
    assert "The API key's budget for the day" in routing()["paused_reason"]
    assert budgets("set", key.id, "--per", "day", "--limit", "1").exit_code == 0
    key.sweep()
    assert (routing()["paused"], routing()["paused_reason"]) == (None, None)
