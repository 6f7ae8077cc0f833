"""Arithmetic word problems of one to six steps: a seeded generator, a solver that reads them, and the example files.

`python -m sandbox.problems --count 600 --seed 7 --output-dir examples` writes the project's examples anew, in the forms
that routebatch accepts: OpenAI batch lines, plain JSONL, CSV and text.
"""

from __future__ import annotations

import argparse
import csv
import io
import operator
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import orjson

from sandbox.templates import DEFAULT_RANGE, ITEMS, NAMES, TEMPLATES, Template

MODEL = "routebatch-auto"
SMALL_SAMPLE = 10
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
WORD_SLOTS = {"name": "[A-Z][a-z]+", "other": "[A-Z][a-z]+", "item": "[a-z]+"}
# Longer numbers are none of ours, and a stranger's million digits are not worth multiplying.
NUMBER = r"\d{1,9}"


@dataclass(frozen=True, slots=True)
class Problem:
    prompt: str
    answer: int
    steps: int


@dataclass(frozen=True, slots=True)
class Step:
    """One line of working: left op right = result."""

    left: int
    op: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


def generate(count: int, seed: int) -> list[Problem]:
    """`count` different problems; a smaller count with the same seed gives the same problems, only fewer."""
    rng = random.Random(f"problems {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = _draw(rng, rng.choice(TEMPLATES))
        if problem is not None:
            problems.setdefault(problem.prompt, problem)
    return list(problems.values())


def solve(prompt: str) -> tuple[int, int] | None:
    """The answer and the number of steps, or None for a prompt that is none of ours."""
    steps = working(prompt)
    return None if steps is None else (steps[-1].result, len(steps))


def working(prompt: str) -> list[Step] | None:
    """The steps to the answer, computed from what the prompt says; None for a prompt that is none of ours."""
    text = prompt.strip()
    for pattern, template in _PATTERNS:
        match = pattern.fullmatch(text)
        if match is not None:
            slots = {slot: int(value) for slot, value in match.groupdict().items() if slot not in WORD_SLOTS}
            return _evaluate(template, slots)
    return None


def _draw(rng: random.Random, template: Template) -> Problem | None:
    """One problem, or None where the numbers drawn do not work out (a remainder, nothing left)."""
    numbers: dict[str, int] = {}
    for slot in _slots(template):
        if slot not in WORD_SLOTS:
            numbers[slot] = rng.randint(*template.ranges.get(slot, DEFAULT_RANGE))
    steps = _evaluate(template, numbers)
    if steps is None:
        return None
    name, other = rng.sample(NAMES, 2)
    prompt = template.text.format(name=name, other=other, item=rng.choice(ITEMS), **numbers)
    return Problem(prompt, steps[-1].result, len(steps))


def _evaluate(template: Template, slots: Mapping[str, int]) -> list[Step] | None:
    values = dict(slots)
    steps: list[Step] = []
    for step in template.steps:
        target, _, left_name, op, right_name = step.split()
        left = _value(values, left_name)
        right = _value(values, right_name)
        if op == "/" and (right == 0 or left % right):
            return None
        result = OPERATIONS[op](left, right)
        if result < 1:
            return None
        values[target] = result
        steps.append(Step(left, op, right, result))
    return steps


def _value(values: Mapping[str, int], name: str) -> int:
    return int(name) if name.isdigit() else values[name]


def _slots(template: Template) -> list[str]:
    """The template's slots in the order in which they first appear."""
    return list(dict.fromkeys(slot for _, slot, _, _ in Formatter().parse(template.text) if slot))


def _pattern(template: Template) -> re.Pattern[str]:
    """The template as a pattern; a slot that appears again must read the same again."""
    pieces: list[str] = []
    seen: set[str] = set()
    for literal, slot, _, _ in Formatter().parse(template.text):
        pieces.append(re.escape(literal))
        if slot is None:
            continue
        pieces.append(f"(?P={slot})" if slot in seen else f"(?P<{slot}>{WORD_SLOTS.get(slot, NUMBER)})")
        seen.add(slot)
    return re.compile("".join(pieces), re.ASCII)


_PATTERNS = [(_pattern(template), template) for template in TEMPLATES]


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write arithmetic word problems with gold answers, and samples.")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    for path in write_examples(options.output_dir, generate(options.count, options.seed)):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
