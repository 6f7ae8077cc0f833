"""`routebatch judge`: asks, collects what a worker has not, and says how the judge fares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from cli.main import main
from routing_service.db import Database
from routing_service.models import Batch, BatchPurpose
from routing_service.service import Service
from tests.support.answered_batch import comparisons_of, paired_batch, reply
from tests.support.factories import make_settings
from tests.support.fakes import FakePublisher
from workers.app import configuration
from workers.tasks import collect_judgements

CONFIGURATION = """
[models.weak]
name = "w"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 1
output_usd_per_million = 1

[routing]
candidates = ["weak"]
"""
JUDGE = """
[learning.judge]
model = "weak"
budget_usd = 0.5
"""
PAIRS = [("1 + 1?", "2", "3"), ("2 + 2?", "4", "4")]


@pytest.fixture
def routebatch(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    Path("routebatch.toml").write_text(CONFIGURATION + JUDGE)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["judge", *arguments])

    return run


def companions(database: Database) -> list[str]:
    with database.transaction() as session:
        query = select(Batch.id).where(Batch.purpose == BatchPurpose.JUDGE).order_by(Batch.created_at)
        return list(session.scalars(query))


def test_asking_collecting_and_health(routebatch: Any, database: Database) -> None:
    assert routebatch("health").stdout == "no judge was asked yet\n"
    batch_id = paired_batch(database, make_settings(), PAIRS)
    asked = json.loads(routebatch(batch_id, "--limit", "1", "--json").stdout)
    assert (asked["parent_id"], asked["calls"], asked["budget_usd"], asked["collected"]) == (batch_id, 2, "0.50", None)
    assert float(asked["expected_cost_usd"]) > 0
    assert "0 verdicts" in routebatch("collect").stdout
    reply(database, asked["batch_id"], ["[[C]]", "[[C]]"])
    again = routebatch("--budget", "0.25", batch_id)
    assert "weak is asked about 1 pairs in 2 calls" in again.stdout
    assert "of at most $0.25" in again.stdout
    assert "1 were asked about before" in again.stderr
    reply(database, companions(database)[1], ["[[A]]", "what?"])
    printed = json.loads(routebatch("collect", "--json").stdout)
    assert (printed["batches"], printed["verdicts"], printed["unparsed"], printed["comparisons"]) == (2, 3, 1, 1)
    assert [row[5] for row in comparisons_of(database)] == [0.5]
    (health,) = json.loads(routebatch("health", "--json").stdout)
    assert (health["judge"], health["calls"], health["cost_usd"]) == ("weak", 4, "0.00")
    shown = routebatch("health").stdout
    assert "weak, pairwise-v1: 4 questions for $0.00" in shown
    assert "both orders say the same" in shown


def test_a_companion_whose_caller_went_away_is_collected_by_a_worker(
    routebatch: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configuration(make_settings())["task_routes"]["routebatch.collect_judgements"] == {"queue": "train"}
    batch_id = paired_batch(database, make_settings(), PAIRS[:1])
    asked = json.loads(routebatch(batch_id, "--json").stdout)
    reply(database, asked["batch_id"], ["[[A]]", None])

    service = Service(database, make_settings(), FakePublisher())
    monkeypatch.setattr("workers.tasks.service", lambda: service)
    collect_judgements()
    assert json.loads(routebatch("collect", "--json").stdout)["batches"] == 0


def test_whoever_waits_is_told_what_came_of_it(
    routebatch: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = paired_batch(database, make_settings(), PAIRS)

    def meanwhile(seconds: float) -> None:
        reply(database, companions(database)[-1], ["[[5]]", None])

    monkeypatch.setattr("cli.learn.judge.time.sleep", meanwhile)
    waited = routebatch(batch_id, "--mode", "score", "--wait", "--json")
    actual = json.loads(waited.stdout)["collected"]
    assert (actual["verdicts"], actual["ratings"], actual["unanswered"]) == (1, 1, 1)
    assert waited.exit_code == 3


def test_what_cannot_be_asked_is_one_line(routebatch: Any, database: Database) -> None:
    batch_id = paired_batch(database, make_settings(), PAIRS[:1])
    Path("gold.csv").write_text("id,gold\nc-1,2\n")
    assert routebatch(batch_id, "--reference", "gold.csv").exit_code == 2
    assert routebatch(batch_id, "--budget", "0").exit_code == 2
    assert routebatch("batch_x").stderr == "Error: there is no batch 'batch_x'\n"
    Path("routebatch.toml").write_text(CONFIGURATION + JUDGE.replace("budget_usd = 0.5", ""))
    assert "--budget" in routebatch(batch_id).stderr
    Path("routebatch.toml").write_text(CONFIGURATION)
    assert "no judge is configured" in routebatch(batch_id).stderr
    assert companions(database) == []
