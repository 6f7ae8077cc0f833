"""`routebatch comparisons`: preferences into the database, out of it again, and counted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import func, select, update

from cli.main import main
from routing_service.db import Database
from routing_service.models import Comparison
from tests.support.routers.labelled import lines, table

QUESTION = "Which of the two rivers is longer, and by how much?"
BATTLE = {"prompt": QUESTION, "model_a": "big", "model_b": "small", "outcome": 1}


@pytest.fixture
def routebatch(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["comparisons", *arguments])

    return run


def imported(routebatch: Any, *arguments: str) -> dict[str, Any]:
    result = routebatch("import", *arguments, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert isinstance(printed, dict)
    return printed


def stored(database: Database) -> list[tuple[Any, ...]]:
    columns = (Comparison.source, Comparison.prompt, Comparison.model_a, Comparison.model_b, Comparison.outcome)
    with database.transaction() as session:
        return [tuple(row) for row in session.execute(select(*columns).order_by(Comparison.id))]


def count(database: Database) -> int:
    with database.transaction() as session:
        return session.scalars(select(func.count()).select_from(Comparison)).one()


def test_arena_battles_are_imported(routebatch: Any, database: Database) -> None:
    header = ["id", "model_a", "model_b", "prompt", "winner_model_a", "winner_model_b", "winner_tie", "tstamp"]
    turns = json.dumps([QUESTION, "and the next?"])
    Path("arena.csv").write_text(
        table(
            [
                header,
                [1, "big", "small", turns, 0, 1, 0, "1700000000.5"],
                [2, "big", "small", "hi", 1, 0, 0, ""],
                [3, "big", "big", QUESTION, 1, 0, 0, ""],
                [4, "small", "other", QUESTION, 0, 0, 1, ""],
            ]
        )
    )
    actual = imported(routebatch, "arena.csv", "--format", "arena")
    assert (actual["rows"], actual["added"], actual["short_prompts"], actual["same_model"]) == (4, 2, 1, 1)
    assert stored(database) == [("arena", QUESTION, "big", "small", 0), ("arena", QUESTION, "small", "other", 0.5)]
    with database.transaction() as session:
        first = session.scalars(select(Comparison.created_at).order_by(Comparison.id)).first()
    assert first == datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)


def test_routellms_tables_are_imported_for_the_models_that_are_named(routebatch: Any, database: Database) -> None:
    Path("mmlu.csv").write_text(table([["prompt", "org/big", "org/small"], ["one", "True", "False"], ["two", 1, 1]]))
    imported(routebatch, "mmlu.csv", "--format", "routellm", "--strong", "org/big", "--weak", "org/small")
    Path("gsm.csv").write_text(table([["prompt", "strong_correct", "weak_correct"], ["three", 0, 1]]))
    imported(routebatch, "gsm.csv", "--strong", "s", "--weak", "w", "--source", "judge")
    assert stored(database) == [
        ("golden", "one", "org/big", "org/small", 1),
        ("golden", "two", "org/big", "org/small", 0.5),
        ("judge", "three", "s", "w", 0),
    ]
    refused = routebatch("import", "gsm.csv")
    assert (refused.exit_code, "say which is strong" in refused.stderr) == (1, True)


def test_alpaca_evals_annotations_and_battles_by_id_are_imported(routebatch: Any, database: Database) -> None:
    def annotation(preference: Any, second: str = "small") -> dict[str, Any]:
        names = {"instruction": QUESTION, "generator_1": "big", "generator_2": second, "output_1": "x"}
        return names | {"preference": preference}

    Path("annotations.json").write_text(json.dumps([annotation(p) for p in (1, 1.25, 2.0, 0)] + [annotation(None)]))
    result = routebatch("import", "annotations.json", "--format", "alpaca", "--skip-bad")
    assert "bad: annotations.json, item 5: `preference` is missing" in result.stderr
    assert [row[-1] for row in stored(database)] == [1, 0.75, 0, 0.5]
    Path("battles.csv").write_text(
        table([["prompt_id", "model_a", "model_b", "preference_b"], ["p", "big", "x", 0.25]])
    )
    Path("prompts.csv").write_text(table([["prompt_id", "prompt"], ["p", QUESTION]]))
    imported(routebatch, "battles.csv", "prompts.csv", "--format", "alpaca")
    assert stored(database)[-1] == ("judge", QUESTION, "big", "x", 0.75)


def test_a_file_imported_again_adds_nothing_and_says_so(routebatch: Any, database: Database) -> None:
    Path("a.jsonl").write_text(lines(BATTLE, BATTLE, BATTLE | {"outcome": 0.3}))
    assert routebatch("import", "a.jsonl").stdout == "3 comparisons added\n"
    assert routebatch("import", "a.jsonl").stdout == "0 comparisons added, 3 were there already\n"
    Path("b.jsonl").write_text(lines(BATTLE | {"outcome": 0.3}, BATTLE, BATTLE, BATTLE))
    assert imported(routebatch, "b.jsonl")["added"] == 1  # a third of the first kind
    assert count(database) == 4


def test_bad_rows_are_named_and_nothing_is_imported_unless_they_are_skipped(
    routebatch: Any, database: Database
) -> None:
    bad: list[dict[str, Any]] = [
        {"outcome": 2},
        {"weight": 1e300},
        {"weight": 1e-60},
        {"prompt": "a\0b"},
        {"created_at": "yesterday"},
        {"created_at": 1e30},
        {"line": "x"},
        {"batch_id": ["x"]},
        {"digest": "abc"},
        {"source": "hearsay"},
        {"prompt": "\ud800"},
    ]
    Path("a.jsonl").write_text(lines(BATTLE, *(BATTLE | one for one in bad)))
    result = routebatch("import", "a.jsonl", "--json")
    assert (result.exit_code, count(database)) == (1, 0)
    printed = json.loads(result.stdout)
    assert (printed["added"], printed["bad"]) == (0, len(bad))
    assert [one["row"] for one in printed["bad_rows"]] == list(range(2, 2 + len(bad)))
    assert "bad: a.jsonl, line 2: `outcome` is 2, not within 0 and 1" in result.stderr
    assert "11 bad rows of 12: nothing was imported" in result.stderr
    result = routebatch("import", "a.jsonl", "--skip-bad")
    assert (result.exit_code, count(database)) == (0, 1)
    assert result.stdout == "1 comparisons added, 11 bad rows skipped\n"


def test_the_first_hundred_bad_rows_are_named_and_the_rest_counted(routebatch: Any) -> None:
    Path("a.jsonl").write_text(lines(*[BATTLE | {"outcome": 7}] * 103, BATTLE))
    result = routebatch("import", "a.jsonl")
    assert result.stderr.count("a.jsonl, line ") == 100
    assert "bad: 3 more rows" in result.stderr


@pytest.mark.parametrize(
    ("content", "arguments", "reason"),
    [
        (lines({"prompt": "p", "mixtral_score": 3}), [], "none of the forms that are asked for"),
        (lines(BATTLE), ["--format", "arena"], "Known forms: arena:"),
        (lines(BATTLE), ["--strong", "big"], "name both models"),
        ("[1, 2]", [], "holds no JSON object"),
        ('[{"prompt": 1', [], "not a JSON array"),
    ],
)
def test_files_of_another_form_are_refused(routebatch: Any, content: str, arguments: list[str], reason: str) -> None:
    Path("a.jsonl").write_text(content)
    result = routebatch("import", "a.jsonl", *arguments)
    assert result.exit_code == 1
    assert reason in result.stderr


def test_an_export_imported_elsewhere_is_the_same_export(
    routebatch: Any, database: Database, postgres_url: str, tmp_path: Path
) -> None:
    rows = [
        BATTLE | {"outcome": 0.3, "weight": 0.1, "source": "feedback", "prompt": "é \u2028 line\nbreak"},
        BATTLE | {"created_at": "2026-02-03T04:05:06.789+02:00"},
    ]
    Path("a.jsonl").write_text(lines(*rows))
    imported(routebatch, "a.jsonl")
    assert routebatch("export", "one.jsonl").stderr == "wrote 2 comparisons to one.jsonl\n"
    exported = Path("one.jsonl").read_bytes()
    assert routebatch("export", "-").stdout_bytes == exported
    assert imported(routebatch, "one.jsonl") | {"bad_rows": 0} == {
        "rows": 2, "added": 0, "known": 2, "bad": 0, "short_prompts": 0, "same_model": 0, "bad_rows": 0
    }  # fmt: skip
    with database.transaction() as session:
        session.connection().exec_driver_sql("truncate comparisons")
    imported(routebatch, "one.jsonl")
    assert routebatch("export", "-").stdout_bytes == exported
    first, second = map(json.loads, exported.splitlines())
    assert (first["outcome"], first["weight"], first["prompt"]) == (0.3, 0.1, "é \u2028 line\nbreak")
    assert second["created_at"] == "2026-02-03T02:05:06.789000+00:00"


def test_batches_and_keys_of_another_database_are_forgotten(routebatch: Any, database: Database) -> None:
    Path("a.jsonl").write_text(lines(BATTLE | {"batch_id": "batch_x", "line": 3, "api_key_id": "key_x"}))
    imported(routebatch, "a.jsonl")
    with database.transaction() as session:
        row = session.scalars(select(Comparison)).one()
    assert (row.batch_id, row.line, row.api_key_id) == (None, None, None)


def test_stats_count_by_source_pair_month_and_language(routebatch: Any, database: Database) -> None:
    assert routebatch("stats").stdout == "there are no comparisons yet, and 0 ratings of single answers\n"
    assert json.loads(routebatch("stats", "--json").stdout)["tie_share"] is None
    german = "Wie hoch ist der Eiffelturm, und wann wurde er gebaut?"
    rows = [
        BATTLE | {"created_at": "2026-01-31T23:00:00Z"},
        BATTLE | {"model_a": "small", "model_b": "big", "outcome": 1, "created_at": "2026-01-31T23:00:00-05:00"},
        BATTLE | {"outcome": 0.5, "prompt": german, "source": "judge", "created_at": "2026-02-01T00:00:00Z"},
        BATTLE | {"outcome": 0.5, "prompt": "1 + 1 =", "model_a": "alpha", "created_at": "2026-02-01T00:00:00Z"},
    ]
    Path("a.jsonl").write_text(lines(*rows))
    imported(routebatch, "a.jsonl")
    printed = json.loads(routebatch("stats", "--json").stdout)
    assert (printed["rows"], printed["prompts"], printed["tie_share"], printed["sampled"]) == (4, 3, 0.5, 4)
    assert {g["source"]: (g["rows"], g["tie_share"]) for g in printed["by_source"]} == {
        "golden": (3, 1 / 3),
        "judge": (1, 1),
    }
    assert [(g["model_a"], g["model_b"], g["rows"], g["outcome"]) for g in printed["by_pair"]] == [
        ("big", "small", 3, 0.5),
        ("alpha", "small", 1, 0.5),
    ]
    assert [(g["month"], g["rows"]) for g in printed["by_month"]] == [("2026-02", 3), ("2026-01", 1)]
    assert [(g["language"], g["rows"]) for g in printed["by_language"]] == [("en", 2), ("de", 1), ("unknown", 1)]
    shown = routebatch("stats").stdout
    assert "4 comparisons on 3 prompts, 50.0 % ties; 0 ratings of single answers" in shown
    assert "by language" in shown


def test_what_was_changed_in_the_database_is_not_imported_over(routebatch: Any, database: Database) -> None:
    Path("a.jsonl").write_text(lines(BATTLE))
    imported(routebatch, "a.jsonl")
    with database.transaction() as session:
        session.execute(update(Comparison).values(weight=3))
    assert imported(routebatch, "a.jsonl")["known"] == 1
    with database.transaction() as session:
        assert session.scalars(select(Comparison.weight)).one() == 3


def test_a_database_without_the_table_is_one_line(routebatch: Any, database: Database) -> None:
    with database.transaction() as session:
        session.connection().exec_driver_sql("drop table comparisons")
    Path("a.jsonl").write_text(lines(BATTLE))
    for arguments in (("import", "a.jsonl"), ("export", "-"), ("stats",)):
        result = routebatch(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
        assert "bring its schema up to date with `routebatch migrate`" in result.stderr
