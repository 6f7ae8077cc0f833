"""An upstream's account against the attempts: what is settled covers what is billed, and what explains the rest."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from cli.main import main
from routing_service.db import Database
from routing_service.errors import InvalidRequestError
from routing_service.money.reconcile import Billed, read_billed, reconcile

HEADER = "model,day,input_tokens,output_tokens\n"
DAY = date(2026, 3, 1)


def attempt(
    database: Database, state: str, tokens: tuple[int, int] | None, cost: int, at: str = "2026-03-01 23:59Z"
) -> None:
    """An attempt at gpt, at 2 and 10 dollars a million tokens."""
    given, answered = tokens or (None, None)
    with database.transaction() as session:
        session.execute(
            text(
                "insert into attempts (number, model, upstream_model, input_price, cached_input_price, output_price,"
                " reserved_nano, state, started_at, ended_at, input_tokens, output_tokens, cost_nano) values"
                " (1, 'strong', 'gpt', 2000000000, 2000000000, 10000000000, 100000000, cast(:s as attempt_state),"
                " cast(:at as timestamptz), now(), :i, :o, :c)"
            ),
            {"s": state, "at": at, "i": given, "o": answered, "c": cost},
        )


def test_what_is_settled_above_the_account_is_unknown_or_estimated(database: Database) -> None:
    attempt(database, "succeeded", (1000, 100), 3_000_000)
    attempt(database, "unknown", None, 50_000_000)
    attempt(database, "succeeded", None, 7_000_000)
    attempt(database, "refused", None, 0)
    attempt(database, "succeeded", (5, 5), 1, at="2026-03-02 00:00Z")  # a day that the account is not about
    with database.transaction() as session:
        (row,) = reconcile(session, [Billed("gpt", DAY, 600, 60), Billed("gpt", DAY, 400, 40)])
    assert (row.recorded_input_tokens, row.recorded_output_tokens) == (1000, 100)
    assert (row.billed, row.settled, row.unknown, row.estimated) == (3_000_000, 60_000_000, 50_000_000, 7_000_000)
    assert (row.unknown_attempts, row.estimated_attempts) == (1, 1)
    assert row.difference == row.unknown + row.estimated


def test_a_model_with_attempts_that_the_account_lacks_is_listed(database: Database) -> None:
    attempt(database, "succeeded", (1000, 100), 3_000_000)
    with database.transaction() as session:
        rows = reconcile(session, [Billed("other", DAY, 10, 1)])
    assert [(row.model, row.settled, row.billed) for row in rows] == [("gpt", 3_000_000, 0), ("other", 0, 0)]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("model,day\n", "input_tokens"),
        (HEADER + "gpt,yesterday,1,1\n", "line 2"),
        (HEADER + "gpt,2026-03-01,1,1\ngpt,2026-03-01,-1,1\n", "line 3"),
        (HEADER + ",2026-03-01,1,1\n", "line 2"),
        (HEADER + "gpt,2026-03-01,1\n", "line 2"),
    ],
)
def test_a_wrong_account_is_refused_by_its_line(lines: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read_billed(lines.splitlines())


def run(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> Result:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    (tmp_path / "billed.csv").write_text(HEADER + lines)
    return CliRunner().invoke(main, ["ledger", "reconcile", "--billed", str(tmp_path / "billed.csv"), "--json"])


@pytest.mark.parametrize(
    ("line", "code"), [("gpt,2026-03-01,1000,100", 0), ("gpt,2026-03-01,1000,101", 1), ("x,2026-03-01,1,0", 1)]
)
def test_the_command_fails_where_more_was_billed_than_is_settled(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, code: int
) -> None:
    attempt(database, "succeeded", (1000, 100), 3_000_000)
    result = run(database_url, monkeypatch, tmp_path, line + "\n")
    assert result.exit_code == code
    assert json.loads(result.stdout)[0]["settled"] == 3_000_000
