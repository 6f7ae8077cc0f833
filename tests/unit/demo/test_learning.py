"""The learning demo's material and what it shows; `make demo-learning` is run by hand."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from demo.learning import Round, draw, summary_table
from demo.learning_material import LESSONS, Part, problems, recorded
from demo.stack import DemoError

GRADED = {
    "requests": {"n": 4, "mean": 0.75, "interval": [0.3, 0.95]},
    "by_model": {"weak": {"n": 3}, "strong": {"n": 1}},
}
COSTS = {"answered_by_strong": 1, "cost_usd": "0.0123"}


def prompts_of(part: Part) -> list[str]:
    return [json.loads(line)["prompt"] for line in part.prompts.read_text().splitlines()]


def test_no_problem_is_looked_at_and_learned_from(tmp_path: Path) -> None:
    material = problems(tmp_path)
    parts = [material.looked_at, *material.lessons]
    asked = [prompt for part in parts for prompt in prompts_of(part)]
    assert len(material.lessons) == LESSONS
    assert len(asked) == len(set(asked)) == sum(part.lines for part in parts) == 600
    again = tmp_path / "again"
    again.mkdir()
    assert prompts_of(problems(again).looked_at) == prompts_of(material.looked_at)


def test_a_table_of_recorded_answers_keeps_each_gold_answer_with_its_prompt(tmp_path: Path) -> None:
    rows = [(f"prompt {n}", str(n), "s", "w") for n in range(10)]
    with gzip.open(tmp_path / "table.csv.gz", "wt", newline="") as stream:
        csv.writer(stream).writerows([("prompt", "gold", "strong_response", "weak_response"), *rows])
    material = recorded(tmp_path / "table.csv.gz", tmp_path)
    for part in (material.looked_at, *material.lessons):
        with part.gold.open(newline="") as stream:
            gold = [row["gold"] for row in csv.DictReader(stream)]
        assert prompts_of(part) == [f"prompt {number}" for number in gold]


@pytest.mark.parametrize("content", ["", "prompt,gold\na,1\n"])
def test_a_table_without_answers_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(DemoError, match="needs the columns"):
        recorded(tmp_path / "table.csv", tmp_path)


def test_each_look_is_a_row_and_a_point(tmp_path: Path) -> None:
    first = Round.of(0, None, None, GRADED, COSTS)
    second = Round.of(40, {"outcome": "promoted"}, {"name": "version-1", "method": "gain"}, GRADED, COSTS)
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(summary_table([first, second], simulated=True))
    shown = console.export_text()
    assert "random" in shown
    assert "version-1 (gain)" in shown
    assert shown.count("25.0 %") == 2  # to strong
    draw([first, second], tmp_path / "plot.png", simulated=True)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
