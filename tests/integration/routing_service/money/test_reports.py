"""The cost report and the ledger check, as an operator calls them, on a real database."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text
from sqlalchemy.orm import Session

from cli.main import main
from routing_service.db import Database
from routing_service.models import (
    ApiKey,
    Attempt,
    AttemptState,
    Batch,
    BatchState,
    Budget,
    BudgetKind,
    EntryBasis,
    EntryKind,
    File,
    FilePurpose,
    LedgerEntry,
    Request,
    RequestState,
)
from routing_service.money.reports import costs_by_batch, costs_by_day, costs_by_model
from tests.support.key_limits import limited_key
from tests.support.paths import ROOT

MILLION = 1_000_000
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
# nano-dollars a million tokens, input and output
PRICES = {"weak": (150_000_000, 600_000_000), "strong": (10_000_000_000, 30_000_000_000)}
INPUT_TOKENS, OUTPUT_TOKENS = 100, 20
COSTS = {model: (INPUT_TOKENS * i + OUTPUT_TOKENS * o) // MILLION for model, (i, o) in PRICES.items()}
VIEWS = (ROOT / "docs" / "reference" / "views.md").read_text(encoding="utf-8")
SQL = VIEWS.split("```sql\n")[1].split("```")[0]

Run = Callable[..., Result]


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.transaction() as session:
        yield session


def add_batch(session: Session, batch_id: str, created: datetime, models: list[str]) -> None:
    """A completed batch of answered requests, one attempt each, with its ledger."""
    key = session.get(ApiKey, "key_1") or ApiKey(id="key_1", name="tester", digest=bytes(32), hint="abcd")
    file = File(id=f"file-{batch_id}", api_key_id="key_1", purpose=FilePurpose.BATCH, filename="a", bytes=1)
    session.add_all([key, file])
    session.flush()
    session.add(
        Batch(
            id=batch_id,
            api_key_id="key_1",
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            options={},
            fingerprint=b"",
            router="random",
            candidates=["weak", "strong"],
            strong_input_price=PRICES["strong"][0],
            strong_output_price=PRICES["strong"][1],
            state=BatchState.COMPLETED,
            total=len(models),
            succeeded=len(models),
            created_at=created,
            completed_at=created,
            expires_at=created + timedelta(days=1),
        )
    )
    session.flush()
    cost = sum(COSTS[model] for model in models)
    budget = Budget(kind=BudgetKind.BATCH, batch_id=batch_id, limit_nano=cost * 2, settled_nano=cost)
    session.add(budget)
    for line, model in enumerate(models, 1):
        add_answer(session, batch_id, line, model, created)
    session.flush()
    for attempt in session.query(Attempt).where(Attempt.batch_id == batch_id):
        for kind, basis in ((EntryKind.RESERVE, EntryBasis.BOUND), (EntryKind.SETTLE, EntryBasis.USAGE)):
            amount = attempt.reserved_nano if kind is EntryKind.RESERVE else attempt.cost_nano
            entry = {"attempt_id": attempt.id, "budget_id": budget.id, "kind": kind, "basis": basis}
            session.add(LedgerEntry(**entry, amount_nano=amount))
    session.flush()


def add_answer(session: Session, batch_id: str, line: int, model: str, at: datetime) -> None:
    place = {"batch_id": batch_id, "line": line, "model": model, "cost_nano": COSTS[model]}
    session.add(
        Request(
            **place,
            custom_id=f"line-{line}",
            body="{}",
            input_bytes=400,
            state=RequestState.SUCCEEDED,
            response="{}",
            finished_at=at,
        )
    )
    session.flush()
    session.add(
        Attempt(
            **place,
            number=1,
            upstream_model=f"sandbox-{model}",
            input_price=PRICES[model][0],
            cached_input_price=PRICES[model][0],
            output_price=PRICES[model][1],
            reserved_nano=COSTS[model] * 2,
            state=AttemptState.SUCCEEDED,
            started_at=at,
            ended_at=at,
            input_tokens=INPUT_TOKENS,
            output_tokens=OUTPUT_TOKENS,
        )
    )


@pytest.fixture
def run(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command on a database that holds two batches, one a day later than the other."""
    with database.transaction() as session:
        add_batch(session, "batch_a", NOON, ["weak", "weak", "strong"])
        add_batch(session, "batch_b", NOON + timedelta(days=1), ["weak"])
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def test_a_batch_costs_what_is_settled_and_saves_what_strong_would_have_cost_more(session: Session) -> None:
    add_batch(session, "batch_a", NOON, ["weak", "weak", "strong"])
    (row,) = costs_by_batch(session).rows
    assert row["batch_id"] == "batch_a"
    assert row["key_name"] == "tester"
    assert (row["requests"], row["answered_by_strong"]) == (3, 1)
    weak, strong = Decimal(COSTS["weak"]) / 10**9, Decimal(COSTS["strong"]) / 10**9
    assert row["cost_usd"] == 2 * weak + strong
    assert row["all_strong_usd"] == 3 * strong
    assert row["saved_usd"] == 2 * (strong - weak)


def test_every_grouping_adds_up_to_the_same_cost(session: Session) -> None:
    add_batch(session, "batch_a", NOON, ["weak", "weak", "strong"])
    add_batch(session, "batch_b", NOON + timedelta(days=1), ["weak", "strong"])
    reports = [costs_by_batch(session), costs_by_model(session), costs_by_day(session)]
    assert {report.totals["cost_usd"] for report in reports} == {
        Decimal(3 * COSTS["weak"] + 2 * COSTS["strong"]) / 10**9
    }
    assert [row["model"] for row in reports[1].rows] == ["strong", "weak"]
    assert [row["day"] for row in reports[2].rows] == [date(2026, 11, 21), date(2026, 11, 20)]


def test_since_leaves_out_earlier_days(session: Session) -> None:
    add_batch(session, "batch_a", NOON, ["weak"])
    add_batch(session, "batch_b", NOON + timedelta(days=1), ["strong"])
    day = date(2026, 11, 21)
    assert [row["batch_id"] for row in costs_by_batch(session, since=day).rows] == ["batch_b"]
    assert [row["model"] for row in costs_by_model(session, since=day).rows] == ["strong"]
    assert [row["day"] for row in costs_by_day(session, since=day).rows] == [day]


def test_a_batch_without_answers_has_a_row_without_savings(session: Session) -> None:
    add_batch(session, "batch_a", NOON, [])
    (row,) = costs_by_batch(session).rows
    assert (row["cost_usd"], row["saved_usd"]) == (0, None)


def test_the_table_shows_a_row_a_batch_and_a_total(run: Run) -> None:
    result = run("report", "costs")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line for line in lines if "batch_a" in line]
    assert [line for line in lines if "total" in line and " 4 " in line]


def test_csv_and_json_hold_exact_decimals(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("report", "costs", "--by", "model", "--format", "csv").stdout)))
    assert {row["model"]: row["cost_usd"] for row in rows} == {"strong": "0.001600000", "weak": "0.000081000"}
    printed = json.loads(run("report", "costs", "--by", "day", "--format", "json").stdout)
    assert [(row["day"], row["cost_usd"]) for row in printed] == [
        ("2026-11-21", "0.000027000"),
        ("2026-11-20", "0.001654000"),
    ]
    printed = json.loads(run("report", "costs", "--batch", "batch_b", "--format", "json").stdout)
    assert [(row["batch_id"], row["created_at"][:10]) for row in printed] == [("batch_b", "2026-11-21")]


@pytest.mark.parametrize("view", ["cost_by_batch", "cost_by_model_day", "savings_by_batch", "cost_by_key_period"])
def test_the_documented_columns_are_those_of_the_view(session: Session, view: str) -> None:
    columns = session.scalars(
        text(
            "select column_name::text from information_schema.columns where table_name = :view"
            " order by ordinal_position"
        ),
        {"view": view},
    )
    documented = VIEWS.split(f"| `{view}` |")[1].split("`")[1]
    assert documented.split(", ") == list(columns)


@pytest.mark.parametrize("query", SQL.split(";")[:-1])
def test_the_documented_queries_run(session: Session, query: str) -> None:
    add_batch(session, "batch_a", NOON, ["weak", "strong"])
    limited_key(session, 1)
    assert session.execute(text(query)).all()


def test_an_unknown_batch_and_wrong_usage_are_said(run: Run) -> None:
    assert run("report", "costs", "--batch", "batch_z").exit_code == 1
    assert run("report", "costs", "--by", "day", "--batch", "batch_a").exit_code == 2


def test_an_empty_database_has_nothing_to_report(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text(json.dumps({"database_url": database_url}))
    result = CliRunner().invoke(main, ["report", "costs", "--state-dir", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "nothing was spent yet\n")


def test_the_ledger_check_passes_and_then_finds_a_balance_that_was_changed(run: Run, database: Database) -> None:
    result = run("ledger", "verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(run("ledger", "verify", "--json").stdout) == []
    with database.transaction() as session:
        session.execute(text("update budgets set settled_nano = settled_nano + 5 where batch_id = 'batch_a'"))
    result = run("ledger", "verify", "--json")
    assert result.exit_code == 1
    settled = next(actual for actual in json.loads(result.stdout) if actual["what"] == "settled")
    assert settled["stored"] - settled["recomputed"] == 5
    assert "settled" in run("ledger", "verify").stdout


def test_a_database_that_is_away_or_empty_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, postgres_url: str, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", "postgresql+psycopg://u:secret@127.0.0.1:1/x")
    result = CliRunner().invoke(main, ["ledger", "verify"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "cannot reach the database" in result.stderr
    assert "secret" not in result.output
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", postgres_url)
    result = CliRunner().invoke(main, ["report", "costs"])
    assert result.exit_code == 1
    assert "routebatch migrate" in result.stderr


def test_without_any_database_it_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTEBATCH_STATE_DIR", str(tmp_path / "none"))
    result = CliRunner().invoke(main, ["report", "costs"])
    assert result.exit_code == 1
    assert "--state-dir" in result.stderr
