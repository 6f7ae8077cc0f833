"""Files of training data: seen through, taken together, and refused where they cannot be used."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.support.routers.labelled import OUTCOMES, lines, load, loaded_labels, table
from training.data.labels import DataError
from training.data.readers import load_comparisons


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("zipped", [False, True])
def test_delimiters_byte_order_marks_and_gzip_are_seen_through(
    tmp_path: Path, delimiter: str, start: str, zipped: bool
) -> None:
    content = (start + table([["prompt", "strong_correct", "weak_correct"], ["é, ; x", 1, 0]], delimiter)).encode()
    loaded = load(tmp_path, gzip.compress(content) if zipped else content, "data")
    assert loaded_labels(loaded).prompts == ["é, ; x"]


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
def test_bad_rows_are_named_by_line_and_the_rest_is_read(tmp_path: Path, row: str | bytes, reason: str) -> None:
    bad = row.encode() if isinstance(row, str) else row
    content = OUTCOMES.encode() + b'"first\nprompt",1,0\n\n' + bad + b"\nlast,0,1\n"
    loaded = load(tmp_path, content)
    assert loaded_labels(loaded).prompts == ["first\nprompt", "last"]
    assert loaded.counted["bad"] == 1
    assert loaded.counted["rows"] == 3
    assert loaded.bad[0].row == 5
    assert loaded.bad[0].file.endswith("data.csv")
    assert loaded.bad[0].reason.startswith(reason)


def test_all_bad_rows_are_counted_and_the_first_thousand_named(tmp_path: Path) -> None:
    loaded = load(tmp_path, OUTCOMES + "good,1,0\n" + "bad,x,0\n" * 1500)
    assert (loaded.counted["bad"], len(loaded.bad)) == (1500, 1000)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.csv", "is empty"),
        (b"\n  \n", "a.jsonl", "is empty"),
        (b"question,answer\n1,2\n", "a.csv", "no form of training data: answer, question"),
        (b"prompt_id,prompt\nx,p\n", "a.csv", "no usable row"),
        (OUTCOMES.encode(), "a.csv", "no usable row among 0"),
        (OUTCOMES.encode() + b"p,2,0\n", "a.csv", "no usable row among 1; the first: .*line 2: `strong_correct` is 2"),
        (OUTCOMES.encode() + b'"open,1,0\n', "a.csv", "not CSV"),
        (b"prompt,prompt\n", "a.csv", "names a column twice"),
        (b"nonsense\n", "a.jsonl", "line 1: not JSON"),
        (gzip.compress(OUTCOMES.encode() * 999)[:-9], "a.csv.gz", "gzip stream breaks off"),
        (b"\x1f\x8b" + b"nonsense" * 9, "a.csv.gz", "cannot read|damaged"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load(tmp_path, content, name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: No such file"):
        load_comparisons([tmp_path / "none.csv"])


def test_models_that_are_not_named_or_not_in_the_data_are_listed(tmp_path: Path) -> None:
    content = lines({"prompt": "p", "model_a": "big", "model_b": "small", "outcome": 1})
    with pytest.raises(DataError, match=r"say which is strong .* big / small \(1 rows\)"):
        loaded_labels(load(tmp_path, content, "a.jsonl"))
    with pytest.raises(DataError, match="no usable row compares big with tiny"):
        load(tmp_path, content, "a.jsonl", strong="big", weak="tiny")
    for names in ({"strong": "big"}, {"strong": "big", "weak": "big"}):
        with pytest.raises(DataError, match="both models"):
            load(tmp_path, content, "a.jsonl", **names)


def test_prompts_and_models_are_held_once_and_rows_of_other_models_kept(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n % 3}", "model_a": f"m{n % 4}", "model_b": "big", "outcome": n % 2} for n in range(24)]
    actual = load(tmp_path, lines(*rows), "a.jsonl").comparisons
    assert (actual.prompts, sorted(actual.models)) == (["p0", "p1", "p2"], ["big", "m0", "m1", "m2", "m3"])
    assert [actual.prompts[i] for i in actual.prompt] == [row["prompt"] for row in rows]
    assert [actual.models[i] for i in actual.model_a] == [row["model_a"] for row in rows]
    assert (actual.outcome.tolist(), actual.pair, actual.rating) == ([row["outcome"] for row in rows], None, None)


def test_tables_that_name_no_models_are_about_the_named_pair_beside_others_that_do(tmp_path: Path) -> None:
    outcomes, named = tmp_path / "outcomes.csv", tmp_path / "named.jsonl"
    outcomes.write_text(OUTCOMES + "one,1,0\n")
    named.write_text(lines({"prompt": "two", "model_a": "small", "model_b": "big", "outcome": 1}))
    loaded = load_comparisons([outcomes, named], strong="big", weak="small")
    assert loaded.comparisons.models == ["big", "small"]
    assert loaded_labels(loaded).gain.tolist() == [1, -1]
    unnamed = load_comparisons([outcomes, named]).comparisons
    assert (unnamed.models, unnamed.pair) == (["strong", "weak", "small", "big"], None)
    with pytest.raises(DataError, match=r"big / small \(1 rows\), strong / weak \(1 rows\)"):
        unnamed.labels()
    assert load_comparisons([outcomes]).comparisons.pair == ("strong", "weak")


def test_scores_are_kept_beside_comparisons_that_have_none(tmp_path: Path) -> None:
    scores, named = tmp_path / "scores.jsonl", tmp_path / "named.jsonl"
    scores.write_text(lines({"prompt": "one", "mixtral_score": 3}))
    named.write_text(lines({"prompt": "two", "model_a": "strong", "model_b": "weak", "outcome": 1}))
    actual = load_comparisons([scores, named]).comparisons
    assert actual.pair == ("strong", "weak")
    assert actual.rating is not None
    assert actual.rating[0] == 3
    assert math.isnan(actual.rating[1])


def test_a_table_with_a_column_for_each_model_says_that_they_are_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a column called after each model, which strong and weak name"):
        load(tmp_path, table([["prompt", "org/big", "org/small"], ["p", 1, 0]]))
    with pytest.raises(DataError, match="both models"):
        load(tmp_path, OUTCOMES + "p,1,0\n", strong="", weak="small")


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz"])
def test_reading_advances_by_the_bytes_of_the_file(tmp_path: Path, name: str) -> None:
    content = (OUTCOMES + "".join(f"prompt number {n} of many,1,0\n" for n in range(5000))).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    started: list[tuple[str, int]] = []
    steps: list[int] = []

    def progress(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        started.append((title, total))
        return nullcontext(steps.append)

    load_comparisons([path], progress=progress)
    assert started == [(f"reading {name}", path.stat().st_size)]
    assert sum(steps) == path.stat().st_size
    assert len(steps) > 2
    assert min(steps) >= 0
