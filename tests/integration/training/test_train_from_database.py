"""`routebatch train --comparisons db`: what feedback, judges and imports left in the database becomes a router."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import event, insert

from cli.main import main
from routing_service.db import Database
from routing_service.models import Comparison, Rating
from routing_service.models.base import ComparisonSource
from tests.support.factories import make_key
from tests.support.routers.tiny_llm import save_tiny
from training.data.database import ROWS, read_database, read_ratings
from training.data.readers import Collector, Loaded, load_comparisons
from training.data.tables import DataError
from training.fit.methods import METHODS


@pytest.fixture
def train(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.setitem(METHODS, "fake", "tests.support.routers.fitted_fake:FakeOptions")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, method: str = "gain") -> Result:
        return CliRunner().invoke(main, ["train", method, "--output", "router", "--json", *arguments])

    return run


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A comparison in which big is better on proofs, whichever side it stands on."""
    hard, swapped = number % 2 == 0, number % 3 == 0
    prompt = f"prove theorem {number} about rings" if hard else f"what colour is thing {number}?"
    outcome = 1.0 if hard else 0.5
    values = {
        "digest": sha256(str(number).encode()).digest(),
        "source": ComparisonSource.JUDGE,
        "prompt": prompt,
        "model_a": "small" if swapped else "big",
        "model_b": "big" if swapped else "small",
        "outcome": 1 - outcome if swapped else outcome,
        "weight": 1.0,
    }
    return values | changes


def fill(database: Database, rows: Iterable[dict[str, Any]]) -> None:
    with database.transaction() as session:
        session.execute(insert(Comparison), list(rows))


def read(database: Database, strong: str = "big", weak: str = "small") -> Loaded:
    into = Collector((strong, weak))
    with database.transaction() as session:
        read_database(session, into, feedback_weight_per_key=100)
    return into.loaded()


def test_comparisons_of_the_database_become_a_router(train: Any, database: Database) -> None:
    fill(database, map(row, range(120)))
    result = train("--comparisons", "db", "--strong", "big", "--weak", "small")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["counted"]["rows"], printed["counted"]["used"]) == (120, 120)
    assert printed["metadata"]["data"]["sources"] == {"judge": 120}
    Path("in.txt").write_text("prove a theorem about rings\nwhat colour is it?\n")
    scored = CliRunner().invoke(main, ["score", "in.txt", "--router", "router"])
    hard, easy = (float(line.split(",")[1]) for line in scored.stdout.splitlines()[1:])
    assert hard > easy + 0.2


def test_routers_are_evaluated_on_comparisons_of_the_database(train: Any, database: Database) -> None:
    fill(database, map(row, range(60)))
    models = ("--strong", "big", "--weak", "small")
    sets = ("evaluate", "--router", "random", "--benchmark", "comparisons", "--data", "db", *models, "--json")
    result = CliRunner().invoke(main, sets)
    assert result.exit_code == 0, result.output
    (measured,) = json.loads(result.stdout)["benchmarks"]
    assert (measured["prompts"], measured["all_strong"]) == (60, 0.75)
    assert measured["oracle"]["apgr"] == pytest.approx(0.75)


def test_they_are_the_same_comparisons_as_from_a_file(database: Database, tmp_path: Path) -> None:
    rows = [row(n, outcome=n % 5 / 4, weight=n + 0.5) for n in range(40)]
    fill(database, rows)
    named = [{key: r[key] for key in ("prompt", "model_a", "model_b", "outcome", "weight", "source")} for r in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in named))
    from_file = load_comparisons([tmp_path / "rows.jsonl"], strong="big", weak="small")
    assert read(database).comparisons.fingerprint() == from_file.comparisons.fingerprint()


def test_a_method_for_any_pair_takes_files_and_the_database_together(train: Any, database: Database) -> None:
    fill(database, [row(n, model_b="other", model_a="small") for n in range(10)])
    Path("more.csv").write_text("prompt,model_a,model_b,outcome\none,big,small,1\ntwo,big,small,0\n")
    printed = json.loads(train("--comparisons", "db", "more.csv", method="fake").stdout)
    assert printed["counted"]["used"] == 12
    assert train("--comparisons", "db", "more.csv", method="gain").exit_code == 1


def test_a_row_that_the_table_allows_and_a_fit_cannot_use_is_named_by_its_id(train: Any, database: Database) -> None:
    spoilt = [row(900, prompt="  "), row(901, weight=float("nan")), row(902, weight=float("inf"))]
    fill(database, [*map(row, range(30)), *spoilt])
    result = train("--comparisons", "db", "--strong", "big", "--weak", "small")
    printed = json.loads(result.stdout)
    assert (printed["counted"]["rows"], printed["counted"]["used"], printed["counted"]["bad"]) == (33, 30, 3)
    assert [one["row"] for one in printed["bad"]] == [31, 32, 33]
    assert "left out: the table comparisons, id 31: `prompt` is empty" in result.stderr


def test_an_empty_or_missing_table_is_one_line(train: Any, database: Database) -> None:
    result = train("--comparisons", "db")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "the database holds no comparisons" in result.stderr
    with database.transaction() as session:
        session.connection().exec_driver_sql("drop table comparisons")
    result = train("--comparisons", "db")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "bring its schema up to date with `routebatch migrate`" in result.stderr


def test_rows_come_in_parts_through_a_cursor_of_the_server(database: Database) -> None:
    fill(database, map(row, range(2 * ROWS + 5)))
    steps: list[int] = []
    statements: list[str] = []

    def progress(title: str, total: int) -> AbstractContextManager[Any]:
        assert total == 2 * ROWS + 5
        return nullcontext(steps.append)

    event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(type(given[1]).__name__))
    into = Collector(("big", "small"))
    with database.transaction() as session:
        read_database(session, into, progress, feedback_weight_per_key=100)
    assert steps == [ROWS, ROWS, 5]
    assert "ServerCursor" in statements
    assert len(into.loaded().comparisons) == 2 * ROWS + 5


def test_models_that_the_database_does_not_know_are_named(database: Database) -> None:
    fill(database, map(row, range(10)))
    with pytest.raises(DataError, match=r"compares big with tiny. Most common: big / small \(10 rows\)"):
        read(database, weak="tiny")


def rating(number: int, **changes: Any) -> dict[str, Any]:
    """A judge's score of an answer: small does well on colours and badly on proofs, and most prompts are of colours."""
    hard = number % 4 == 0
    values = {
        "digest": sha256(b"rating" + str(number).encode()).digest(),
        "source": ComparisonSource.JUDGE,
        "prompt": f"prove theorem {number} about rings" if hard else f"what colour is thing {number}?",
        "model": "small",
        "score": 1 + number % 3 if hard else 4 + number % 2,
    }
    return values | changes


def rate(database: Database, rows: Iterable[dict[str, Any]]) -> None:
    with database.transaction() as session:
        session.execute(insert(Rating), list(rows))


def test_ratings_of_the_weak_model_become_a_causal_router_of_five_labels(train: Any, database: Database) -> None:
    rate(database, [rating(n) for n in range(80)] + [rating(900 + n, model="big") for n in range(5)])
    fill(database, [row(1)])  # no rating: it is not read
    options = {"form": "scores", "balance": "downsample", "base": save_tiny(Path("tiny"))}
    options |= {"max_tokens": "512", "head_penalty": "0.01"}
    chosen = [text for name, value in options.items() for text in ("--set", f"{name}={value}")]
    result = train("--comparisons", "db", "--strong", "big", "--weak", "small", *chosen, method="causal_llm")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    counted = printed["counted"]
    assert (counted["rows"], counted["used"], counted["other_ratings"]) == (85, 80, 5)
    assert printed["metadata"]["data"]["labels"] == {"[[1]]": 7, "[[2]]": 7, "[[3]]": 6, "[[4]]": 20, "[[5]]": 40}
    assert printed["metadata"]["metrics"]["fitted_on"]["rows"] == 40
    Path("in.txt").write_text("prove theorem 7 about rings\nwhat colour is thing 8?\n")
    scored = CliRunner().invoke(main, ["score", "in.txt", "--router", "router"])
    hard, easy = (float(line.split(",")[1]) for line in scored.stdout.splitlines()[1:])
    assert hard > easy + 0.2


def test_ratings_of_one_key_weigh_together_what_is_allowed(database: Database) -> None:
    with database.transaction() as session:
        key_id = make_key(session).id
        votes = [rating(n, source=ComparisonSource.FEEDBACK, api_key_id=key_id) for n in range(8)]
        session.execute(insert(Rating), [*votes, *[rating(n, api_key_id=None) for n in range(100, 102)]])
    into = Collector(("big", "small"))
    with database.transaction() as session:
        read_ratings(session, into, feedback_weight_per_key=4)
    assert into.loaded().comparisons.weight.tolist() == [0.5] * 8 + [1.0] * 2


def test_without_ratings_of_the_weak_model_it_is_said_whose_there_are(database: Database) -> None:
    rate(database, [rating(n) for n in range(3)])
    with database.transaction() as session, pytest.raises(DataError, match=r"of tiny. Rated: small \(3\)"):
        read_ratings(session, Collector(("big", "tiny")), feedback_weight_per_key=100)
    with database.transaction() as session, pytest.raises(DataError, match="say which model is strong"):
        read_ratings(session, Collector(), feedback_weight_per_key=100)
