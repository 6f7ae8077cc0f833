"""Writes word problems in the forms that routebatch accepts: OpenAI batch lines, plain JSONL, CSV and text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from sandbox.problems import Problem

MODEL = "routebatch-auto"
SMALL_SAMPLE = 10


def write_examples(directory: Path, problems: Sequence[Problem]) -> list[Path]:
    """Write every example file into `directory`; the paths written."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in example_files(problems).items():
        path = directory / name
        path.write_text(text, encoding="utf-8", newline="")
        written.append(path)
    return written


def example_files(problems: Sequence[Problem]) -> dict[str, str]:
    """File name -> content. The small samples hold the first few of the same problems."""
    few = [problem.prompt for problem in problems[:SMALL_SAMPLE]]
    return {
        "problems.jsonl": _lines([batch_line(number, problem.prompt) for number, problem in enumerate(problems, 1)]),
        "problems_gold.csv": _table(
            ["custom_id", "answer", "steps"],
            [[custom_id(number), problem.answer, problem.steps] for number, problem in enumerate(problems, 1)],
        ),
        "prompts.jsonl": _lines([{"prompt": prompt} for prompt in few]),
        "messages.jsonl": _lines([{"messages": _conversation(prompt)} for prompt in few]),
        "prompts.csv": _table(["topic", "prompt"], [["arithmetic", prompt] for prompt in few]),
        "prompts.txt": "".join(f"{prompt}\n" for prompt in few),
    }


def custom_id(number: int) -> str:
    return f"problem-{number:04d}"


def batch_line(number: int, prompt: str) -> dict[str, Any]:
    """One line of an OpenAI batch file."""
    return {
        "custom_id": custom_id(number),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, "messages": [{"role": "user", "content": prompt}]},
    }


def _conversation(prompt: str) -> list[dict[str, str]]:
    system = "Solve the problem step by step. End with 'Answer: ' and the number."
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(orjson.dumps(row).decode() + "\n" for row in rows)


def _table(header: list[str], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
