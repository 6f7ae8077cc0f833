"""Training data: forms are told apart by their columns, gains point to strong, bad rows are named."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from routing_service.models.base import ComparisonSource
from training.data import DataError, Labels
from training.forms import SOURCES
from training.readers import Loaded, load_comparisons

NONE_LEFT_OUT = {"short_prompts": 0, "same_model": 0}
LONG = "a prompt of more than sixteen characters"
WINNERS = ["winner_model_a", "winner_model_b", "winner_tie"]
Rows = list[list[Any]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def table(rows: Rows, delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def load(
    directory: Path, content: str | bytes, name: str = "data.csv", strong: str | None = None, weak: str | None = None
) -> Loaded:
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_comparisons([path], strong=strong, weak=weak)


def labels(found: Loaded) -> Labels:
    return found.comparisons.labels()


def test_outcome_tables_give_the_difference_of_the_two(directory: Path) -> None:
    rows: Rows = [
        ["subject", "prompt", "strong_correct", "weak_correct"],
        ["s", "one", 1, 0],
        ["s", "two", "True", "true"],
        ["s", "three\nin two lines", 0, 1.0],
        ["s", "four", 0.75, 0.25],
    ]
    found = load(directory, table(rows))
    assert labels(found).prompts == ["one", "two", "three\nin two lines", "four"]
    assert labels(found).gain.tolist() == [1, 0, -1, 0.5]
    assert labels(found).weight.tolist() == [1] * 4
    assert set(labels(found).source) == {"golden"}
    assert found.bad == []
    assert found.counted == {"rows": 4, "used": 4, "bad": 0, "other_models": 0} | NONE_LEFT_OUT


def test_response_tables_are_outcome_tables_whose_columns_are_the_models(directory: Path) -> None:
    content = table([["prompt", "org/big", "org/small"], ["p", "True", "False"], ["q", "True", "True"]])
    assert labels(load(directory, content, strong="org/big", weak="org/small")).gain.tolist() == [1, 0]
    assert labels(load(directory, content, strong="org/small", weak="org/big")).gain.tolist() == [-1, 0]


def test_comparisons_point_to_strong_whichever_side_it_stands_on(directory: Path) -> None:
    content = lines(
        {"prompt": "one", "model_a": "big", "model_b": "small", "outcome": 1},
        {"prompt": "two", "model_a": "small", "model_b": "big", "outcome": 1, "weight": 2.5, "source": "judge"},
        {"prompt": "three", "model_a": "big", "model_b": "small", "outcome": 0.5},
        {"prompt": "four", "model_a": "big", "model_b": "other", "outcome": 0},
    )
    found = load(directory, content, "data.jsonl", strong="big", weak="small")
    assert labels(found).prompts == ["one", "two", "three"]
    assert labels(found).gain.tolist() == [1, -1, 0]
    assert labels(found).weight.tolist() == [1, 2.5, 1]
    assert labels(found).source == ["golden", "judge", "golden"]
    assert found.counted["other_models"] == 1
    assert found.counted["used"] == len(found.comparisons) == 4
    assert found.comparisons.models == ["big", "small", "other"]


def test_arena_takes_the_first_turn_of_its_list_or_the_text(directory: Path) -> None:
    rows: Rows = [
        ["id", "model_a", "model_b", "prompt", *WINNERS],
        [1, "big", "small", json.dumps([LONG, "second turn"]), 1, 0, 0],
        [2, "small", "big", json.dumps([None, LONG]), 1, 0, 0],
        [3, "small", "big", LONG, 0, 0, 1],
        [4, "big", "small", "[is no JSON, but a prompt]", 0, 1, 0],
        [5, "big", "small", '["hi"]', 0, 1, 0],
        [6, "big", "big", LONG, 0, 1, 0],
    ]
    found = load(directory, table(rows), strong="big", weak="small")
    assert labels(found).prompts == [LONG, LONG, LONG, "[is no JSON, but a prompt]"]
    assert labels(found).gain.tolist() == [1, -1, 0, -1]
    assert set(labels(found).source) == {"arena"}
    counted = found.counted
    assert (counted["short_prompts"], counted["same_model"], counted["other_models"], counted["bad"]) == (1, 1, 0, 0)


def test_battles_take_their_prompts_from_another_file_in_either_order(directory: Path) -> None:
    battles, prompts = directory / "battles.csv", directory / "prompts.csv"
    prompts.write_text(table([["prompt_id", "prompt"], ["x", LONG], ["y", ""]]))
    battles.write_text(
        table(
            [
                ["prompt_id", "model_a", "model_b", "preference_b"],
                ["x", "big", "small", 0.25],
                ["x", "small", "big", 1],
                ["z", "small", "big", 1],
            ]
        )
    )
    for paths in ([battles, prompts], [prompts, battles]):
        found = load_comparisons(paths, strong="big", weak="small")
        assert labels(found).prompts == [LONG, LONG]
        assert labels(found).gain.tolist() == [0.5, 1]
        assert [str(row) for row in found.bad] == [
            f"{prompts}, line 3: `prompt` is empty",
            f"{battles}, line 4: no prompt has the id 'z'",
        ]


def test_battles_without_their_prompts_say_what_is_missing(directory: Path) -> None:
    content = table([["prompt_id", "model_a", "model_b", "preference_b"], ["x", "a", "b", 1]])
    with pytest.raises(DataError, match="prompt_id and prompt"):
        load(directory, content, strong="a", weak="b")


def test_scores_of_four_and_five_are_good_enough(directory: Path) -> None:
    content = lines(*({"prompt": f"p{score}", "mixtral_score": score} for score in (1, 2, 3, 4, 5)))
    found = load(directory, content, "data.jsonl")
    assert labels(found).gain.tolist() == [1, 1, 1, 0, 0]
    assert found.comparisons.rating is not None
    assert found.comparisons.rating.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("zipped", [False, True])
def test_delimiters_byte_order_marks_and_gzip_are_seen_through(
    directory: Path, delimiter: str, start: str, zipped: bool
) -> None:
    content = (start + table([["prompt", "strong_correct", "weak_correct"], ["é, ; x", 1, 0]], delimiter)).encode()
    found = load(directory, gzip.compress(content) if zipped else content, "data")
    assert labels(found).prompts == ["é, ; x"]


HEADER = "prompt,strong_correct,weak_correct\n"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("p,nan,0", "`strong_correct` is nan, not within 0 and 1"),
        ("p,inf,0", "`strong_correct` is inf"),
        ("p,1,2", "`weak_correct` is 2, not within 0 and 1"),
        ("p,,0", "`strong_correct` is missing"),
        ("p,yes,0", "`strong_correct` is no number: 'yes'"),
        (",1,0", "`prompt` is empty"),
        ("   ,1,0", "`prompt` is empty"),
        ("p,1", "it has 2 cells for 3 columns"),
        ("p,q,1,0", "it has 4 cells for 3 columns"),
        (b"\xff\xfe,1,0", "`prompt` holds bytes that are no UTF-8"),
    ],
)
def test_bad_rows_are_named_by_line_and_the_rest_is_read(directory: Path, row: str | bytes, reason: str) -> None:
    bad = row.encode() if isinstance(row, str) else row
    content = HEADER.encode() + b'"first\nprompt",1,0\n\n' + bad + b"\nlast,0,1\n"
    found = load(directory, content)
    assert labels(found).prompts == ["first\nprompt", "last"]
    assert found.counted["bad"] == 1
    assert found.counted["rows"] == 3
    assert found.bad[0].row == 5
    assert found.bad[0].file.endswith("data.csv")
    assert found.bad[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "its JSON is nested too deeply"),
        ('{"prompt": 3, "model_a": "a", "model_b": "b", "outcome": 1}', "`prompt` is no text"),
        ('{"prompt": "p", "model_a": "a", "model_b": "a", "outcome": 1}', "`model_a` and `model_b` are both 'a'"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": NaN}', "`outcome` is nan"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": null}', "`outcome` is missing"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": [1]}', "`outcome` is no number"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "weight": 0}', "`weight` is 0"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "weight": Infinity}', "`weight` is inf"),
        ('{"prompt": "p", "model_a": "a", "model_b": "b", "outcome": 1, "source": "rumour"}', "`source` is 'rumour'"),
        ('{"prompt": "\\ud800", "model_a": "a", "model_b": "b", "outcome": 1}', "`prompt` holds bytes"),
    ],
)
def test_bad_json_lines_are_named(directory: Path, line: str, reason: str) -> None:
    good = lines({"prompt": "good", "model_a": "a", "model_b": "b", "outcome": 1})
    found = load(directory, good + line + "\n" + good, "data.jsonl", strong="a", weak="b")
    assert len(labels(found)) == 2
    assert [row.row for row in found.bad] == [2]
    assert found.bad[0].reason.startswith(reason)


def test_arena_rows_without_one_winner_are_bad(directory: Path) -> None:
    rows: Rows = [["model_a", "model_b", "prompt", *WINNERS]]
    rows += [["a", "b", LONG, *won] for won in ([1, 0, 0], [1, 1, 0], [0, 0, 0])]
    found = load(directory, table(rows), strong="a", weak="b")
    assert [row.row for row in found.bad] == [3, 4]


def test_all_bad_rows_are_counted_and_the_first_thousand_named(directory: Path) -> None:
    found = load(directory, HEADER + "good,1,0\n" + "bad,x,0\n" * 1500)
    assert (found.counted["bad"], len(found.bad)) == (1500, 1000)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.csv", "is empty"),
        (b"\n  \n", "a.jsonl", "is empty"),
        (b"question,answer\n1,2\n", "a.csv", "no form of training data: answer, question"),
        (b"prompt_id,prompt\nx,p\n", "a.csv", "no usable row"),
        (HEADER.encode(), "a.csv", "no usable row among 0"),
        (HEADER.encode() + b"p,2,0\n", "a.csv", "no usable row among 1; the first: .*line 2: `strong_correct` is 2"),
        (HEADER.encode() + b'"open,1,0\n', "a.csv", "not CSV"),
        (b"prompt,prompt\n", "a.csv", "names a column twice"),
        (b"nonsense\n", "a.jsonl", "line 1: not JSON"),
        (gzip.compress(HEADER.encode() * 999)[:-9], "a.csv.gz", "gzip stream breaks off"),
        (b"\x1f\x8b" + b"nonsense" * 9, "a.csv.gz", "cannot read|damaged"),
    ],
)
def test_files_that_cannot_be_used_are_refused(directory: Path, content: bytes, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load(directory, content, name)


def test_a_file_that_is_not_there_is_named(directory: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: No such file"):
        load_comparisons([directory / "none.csv"])


def test_models_that_are_not_named_or_not_in_the_data_are_listed(directory: Path) -> None:
    content = lines({"prompt": "p", "model_a": "big", "model_b": "small", "outcome": 1})
    with pytest.raises(DataError, match=r"say which is strong .* big / small \(1 rows\)"):
        labels(load(directory, content, "a.jsonl"))
    with pytest.raises(DataError, match="no usable row compares big with tiny"):
        load(directory, content, "a.jsonl", strong="big", weak="tiny")
    for names in ({"strong": "big"}, {"strong": "big", "weak": "big"}):
        with pytest.raises(DataError, match="both models"):
            load(directory, content, "a.jsonl", **names)


def test_sources_are_those_of_the_database() -> None:
    assert {str(source.value) for source in ComparisonSource} == SOURCES
