"""`routebatch grade`: a batch's answers held against gold answers, and comparisons of pairs in the database."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from cli.main import main
from routing_service.db import Database
from routing_service.models import Comparison
from routing_service.models.base import ComparisonSource
from tests.support.answered_batch import Said, answered_batch, comparisons_of, paired_batch
from tests.support.factories import make_settings
from training.label.store import PairOutcome, keep_comparisons

ANSWERS = [
    Said("1 + 1?", "weak", "It is 2."),
    Said("2 + 2?", "weak", "It is 5."),
    Said("3 + 3?", "strong", "6"),
    Said("4 + 4?", None),
    Said("no gold", "weak", "7"),
]


@pytest.fixture
def routebatch(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    Path("gold.csv").write_text("custom_id,answer\nc-1,2\nc-2,4\nc-3,6\nc-4,8\nc-99,1\n")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["grade", *arguments, "--gold", "gold.csv"])

    return run


def test_quality_is_told_by_model_of_the_answers_and_of_all_requests(routebatch: Any, database: Database) -> None:
    batch_id = answered_batch(database, ANSWERS)
    printed = json.loads(routebatch(batch_id, "--grader", "numeric", "--json").stdout)
    means = {name: (printed[name]["n"], printed[name]["mean"]) for name in ("answers", "requests")}
    assert means == {"answers": (3, pytest.approx(2 / 3)), "requests": (4, 0.5)}
    assert {model: (q["n"], q["mean"]) for model, q in printed["by_model"].items()} == {
        "strong": (1, 1.0),
        "weak": (2, 0.5),
    }
    assert printed["answers"]["interval"][0] < 2 / 3 < printed["answers"]["interval"][1]
    assert (printed["without_gold"], printed["unknown"], printed["comparisons"]) == (1, 1, 0)
    shown = routebatch(batch_id, "--grader", "numeric")
    assert "all requests" in shown.stdout
    assert "1 gold answers are to no request" in shown.stderr
    assert json.loads(routebatch(batch_id, "--json").stdout)["answers"]["mean"] == pytest.approx(1 / 3)  # exact


def test_what_cannot_be_graded_is_one_line(routebatch: Any, database: Database) -> None:
    for arguments in (("batch_x",), ("batch_x", "--grader", "os:system"), ("batch_x", "--field", "a")):
        result = routebatch(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output


def test_pairs_become_golden_comparisons_and_grading_again_replaces_them(routebatch: Any, database: Database) -> None:
    pairs = [("1 + 1?", "2", "3"), ("2 + 2?", "4", "It is 4"), ("3 + 3?", "5", "6"), ("no gold", "1", "2")]
    batch_id = paired_batch(database, make_settings(), pairs)
    Path("gold.csv").write_text("custom_id,answer\nc-1,2\nc-2,4\nc-3,6\n")
    for grader, outcomes in (("numeric", [1, 0.5, 0]), ("exact", [1, 1, 0]), ("exact", [1, 1, 0])):
        assert json.loads(routebatch(batch_id, "--grader", grader, "--json").stdout)["comparisons"] == 3
        rows = comparisons_of(database)
        assert [(row[0], row[1], row[5]) for row in rows] == [("golden", n, o) for n, o in enumerate(outcomes, 1)]
        assert {row[3:5] for row in rows} == {("strong", "weak")}


def test_a_pair_has_one_golden_comparison_and_the_last_one_counts(database: Database) -> None:
    batch_id = answered_batch(database, ANSWERS)

    def keep(*outcomes: float, prompt: str = "1 + 1?") -> int:
        pairs = [PairOutcome(batch_id, line, prompt, "strong", "weak", o) for line, o in enumerate(outcomes, 1)]
        with database.transaction() as session:
            return keep_comparisons(session, ComparisonSource.GOLDEN, pairs)

    def came() -> list[datetime]:
        with database.transaction() as session:
            return list(session.scalars(select(Comparison.created_at)))

    assert keep(1.0, 0.5) == 2
    first = came()
    assert keep(1.0, 0.0) == 2
    assert came() == first  # what is graded again is not what came last
    assert keep(0.0, prompt=" ") == 0
    assert comparisons_of(database) == [
        ("golden", 1, "1 + 1?", "strong", "weak", 1.0),
        ("golden", 2, "1 + 1?", "strong", "weak", 0.0),
    ]
