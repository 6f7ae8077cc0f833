"""The demo's summary: answers are held against the gold, dollars are shown as they were reported."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from pathlib import Path

from rich.console import Console

from demo.batch import Outcome, graded, summary_table


def write_files(directory: Path) -> tuple[Path, Path]:
    gold = directory / "gold.csv"
    gold.write_text("custom_id,answer,steps\na,12,1\nb,7,2\nc,3,1\n")
    answers = [("a", "weak", "6 + 6\nAnswer: 12"), ("b", "weak", "Answer: 8"), ("c", "strong", "Answer: 3\n")]
    results = directory / "results.jsonl"
    with results.open("w") as stream:
        for custom_id, model, content in answers:
            body = {"choices": [{"message": {"content": content}}]}
            line = {"custom_id": custom_id, "response": {"body": body, "routing": {"model": model}}}
            stream.write(json.dumps(line) + "\n")
    return results, gold


def test_answers_are_right_where_their_last_line_is(tmp_path: Path) -> None:
    right, answered = graded(*write_files(tmp_path))
    assert right == {"weak": 1, "strong": 1}
    assert answered == {"weak": 2, "strong": 1}


def test_the_table_says_what_was_spent_and_saved_and_that_it_is_a_simulation(tmp_path: Path) -> None:
    results, gold = write_files(tmp_path)
    batch = {"request_counts": {"total": 3, "completed": 3, "failed": 0}}
    costs = {"answered_by_strong": 1, "cost_usd": "0.25", "budget_usd": "0.30", "all_strong_usd": "0.70"}
    outcome = Outcome.of(batch, costs | {"saved_usd": "0.45"}, 4.2, results, gold)
    assert outcome.saved == Decimal("0.45")
    screen = io.StringIO()
    Console(file=screen, width=100).print(summary_table(outcome))
    for cell in ("1 of 3 (33.3 %)", "$0.2500", "$0.3000", "$0.7000", "$0.4500", "4.2 s", "66.7 %", "simulated"):
        assert cell in screen.getvalue()


def test_a_batch_without_any_answer_has_a_table_too(tmp_path: Path) -> None:
    results, gold = write_files(tmp_path)
    results.write_text("")
    batch = {"request_counts": {"total": 3, "completed": 0, "failed": 3}}
    costs = dict.fromkeys(("answered_by_strong", "all_strong_usd", "saved_usd"))
    outcome = Outcome.of(batch, costs | {"cost_usd": "0", "budget_usd": "0.30"}, 1.0, results, gold)
    Console(file=io.StringIO()).print(summary_table(outcome))
    assert outcome.errors == 3
