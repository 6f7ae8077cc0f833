"""Golden labels without a database: what pairs are worth, what gold files say, intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from routing_service.exploration.pairs import PairedAnswer
from training.data.labels import DataError
from training.evaluate.intervals import Mean, wilson
from training.label.golden import pair_outcomes, read_gold
from training.label.graders import GRADERS


def pair(line: int, strong: str, weak: str) -> PairedAnswer:
    return PairedAnswer(
        batch_id="batch_x",
        line=line,
        custom_id=f"c-{line}",
        prompt=f"prompt {line}",
        body={},
        strong="big",
        strong_answer=strong,
        weak="small",
        weak_answer=weak,
        propensity=0.1,
    )


def test_the_better_answer_of_a_pair_is_preferred_and_equal_ones_are_ties() -> None:
    pairs = [pair(1, "4", "5"), pair(2, "5", "4"), pair(3, "4", "4"), pair(4, "5", "6"), pair(5, "4", "5")]
    gold = dict.fromkeys(("c-1", "c-2", "c-3", "c-4"), "4")
    items = list(pair_outcomes(pairs, gold, GRADERS["numeric"]))
    assert [(each.line, each.outcome) for each in items] == [(1, 1.0), (2, 0.0), (3, 0.5), (4, 0.5)]
    assert (items[0].strong, items[0].weak, items[0].prompt) == ("big", "small", "prompt 1")


def test_gold_answers_come_from_csv_and_json_lines(tmp_path: Path) -> None:
    csv, jsonl = tmp_path / "gold.csv", tmp_path / "gold.jsonl"
    csv.write_text("custom_id,answer,steps\na,4,1\nb,5,2\na,4,9\n")
    jsonl.write_text('{"id": "a", "gold": 4}\n{"id": "b", "gold": {"x": true}}\n{"id": 3, "gold": "c"}\n')
    assert read_gold(csv) == {"a": "4", "b": "5"}
    assert read_gold(jsonl) == {"a": "4", "b": '{"x": true}', "3": "c"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name,gold\na,4\n", "wanted are custom_id or id"),
        ("id,text\na,4\n", "gold or answer"),
        ("id,gold\na,4\n,5\n", "line 3: `id` is empty"),
        ("id,gold\na,\n", "line 2: `gold` is empty"),
        ("id,gold\na,4\na,5\n", "line 3: 'a' is there already"),
        ("id,gold\na,4,5\n", "line 2"),
        ("", "is empty"),
    ],
)
def test_a_gold_file_that_cannot_be_used_is_refused_by_its_row(content: str, reason: str, tmp_path: Path) -> None:
    (file := tmp_path / "gold.csv").write_text(content)
    with pytest.raises(DataError, match=reason):
        read_gold(file)


def test_half_a_character_in_a_gold_file_is_named(tmp_path: Path) -> None:
    (file := tmp_path / "gold.jsonl").write_text('{"id": "a", "gold": "4"}\n{"id": "b", "gold": "\\ud800"}\n')
    with pytest.raises(DataError, match="line 2: `gold` holds bytes that are no UTF-8"):
        read_gold(file)


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert Mean.of(0.0, 0) == Mean(0, None, (0.0, 1.0))
