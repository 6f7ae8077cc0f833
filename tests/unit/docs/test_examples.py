"""The committed examples are what the generator makes, and their gold answers belong to their prompts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from sandbox.problems import example_files, generate, main, solve
from tests.support.paths import EXAMPLES

COUNT, SEED = 600, 7


def test_the_committed_files_equal_what_the_generator_makes() -> None:
    for name, text in example_files(generate(COUNT, SEED)).items():
        assert (EXAMPLES / name).read_bytes() == text.encode(), f"{name}: see examples/README.md for how it is made"


def test_the_command_writes_the_same_files(tmp_path: Path) -> None:
    main(["--count", str(COUNT), "--seed", str(SEED), "--output-dir", str(tmp_path / "made")])
    for path in (tmp_path / "made").iterdir():
        assert path.read_bytes() == (EXAMPLES / path.name).read_bytes()


def test_gold_answers_match_the_prompts_of_the_same_id() -> None:
    lines = [json.loads(line) for line in (EXAMPLES / "problems.jsonl").read_text().splitlines()]
    with (EXAMPLES / "problems_gold.csv").open(newline="") as file:
        gold = {row["custom_id"]: (int(row["answer"]), int(row["steps"])) for row in csv.DictReader(file)}
    assert len(gold) == len(lines) == COUNT
    for line in lines:
        assert line["method"] == "POST"
        assert line["url"] == "/v1/chat/completions"
        assert line["body"]["model"] == "routebatch-auto"
        assert solve(line["body"]["messages"][-1]["content"]) == gold[line["custom_id"]]


def test_the_small_samples_hold_the_same_ten_prompts() -> None:
    text = (EXAMPLES / "prompts.txt").read_text().splitlines()
    plain = [json.loads(line)["prompt"] for line in (EXAMPLES / "prompts.jsonl").read_text().splitlines()]
    chats = [json.loads(line)["messages"] for line in (EXAMPLES / "messages.jsonl").read_text().splitlines()]
    with (EXAMPLES / "prompts.csv").open(newline="") as file:
        table = [row["prompt"] for row in csv.DictReader(file)]
    assert len(text) == 10
    assert text == plain == table == [chat[-1]["content"] for chat in chats]
