"""What the learning demo asks: the project's own problems, or a table of recorded answers, in parts by a fixed draw."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.stack import DemoError

EXAMPLES = Path(__file__).parents[1] / "examples"
LESSONS = 3
LOOKED_AT = 0.4  # of all problems
COLUMNS = ("prompt", "gold", "strong_response", "weak_response")
SEED = "learning"

Row = tuple[str, str]  # prompt and gold answer


@dataclass(frozen=True, slots=True)
class Part:
    """A file of prompts and one of their gold answers."""

    prompts: Path
    gold: Path
    lines: int


@dataclass(frozen=True, slots=True)
class Material:
    """`looked_at`: what is asked again and again and never learned from, for `budget_usd` each time. `lessons`: what
    both models answer. `hold_out`: what of the lessons the gate judges on."""

    looked_at: Part
    lessons: list[Part]
    grader: str
    sandbox: tuple[str, ...]
    budget_usd: str
    lesson_usd: str
    hold_out: float
    output_tokens: tuple[int, int]  # expected, at most


def problems(directory: Path) -> Material:
    """The arithmetic problems of the examples, for the simulated models. DemoError where there are none."""
    try:
        lines = (EXAMPLES / "problems.jsonl").read_text(encoding="utf-8").splitlines()
        with (EXAMPLES / "problems_gold.csv").open(newline="", encoding="utf-8") as stream:
            gold = {row["custom_id"]: row["answer"] for row in csv.DictReader(stream)}
    except OSError as error:
        raise DemoError(f"the examples are missing: run the demo from a checkout ({error})") from error
    requests = [json.loads(line) for line in lines]
    rows = [(request["body"]["messages"][0]["content"], gold[request["custom_id"]]) for request in requests]
    looked_at, lessons = _parts(rows, directory)
    budget = f"{looked_at.lines * 0.00052:.4f}"  # a good part of what all-strong costs
    return Material(looked_at, lessons, "numeric", (), budget, "2", 0.3, (20, 128))


def recorded(table: Path, directory: Path) -> Material:
    """A table of real models' answers, which the sandbox replays. DemoError where it cannot be used."""
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rt", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DemoError(f"{table} cannot be read: {error}") from error
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise DemoError(f"{table} needs the columns {', '.join(COLUMNS)}")
    looked_at, lessons = _parts([(row["prompt"], row["gold"]) for row in rows], directory)
    budget = f"{looked_at.lines * 0.002:.4f}"
    return Material(looked_at, lessons, "numeric", ("--replay", str(table)), budget, "20", 0.45, (120, 1024))


def _parts(rows: Sequence[Row], directory: Path) -> tuple[Part, list[Part]]:
    shuffled = random.Random(SEED).sample(rows, len(rows))  # noqa: S311
    count = round(LOOKED_AT * len(shuffled))
    rest = shuffled[count:]
    return _write(directory, "looked-at", shuffled[:count]), [
        _write(directory, f"lesson-{number + 1}", rest[number::LESSONS]) for number in range(LESSONS)
    ]


def _write(directory: Path, name: str, rows: Sequence[Row]) -> Part:
    prompts, gold = directory / f"{name}.jsonl", directory / f"{name}-gold.csv"
    with prompts.open("w", encoding="utf-8") as stream:
        for number, (prompt, _) in enumerate(rows, start=1):
            stream.write(json.dumps({"custom_id": f"{name}-{number}", "prompt": prompt}) + "\n")
    with gold.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("custom_id", "gold"))
        writer.writerows((f"{name}-{number}", answer) for number, (_, answer) in enumerate(rows, start=1))
    return Part(prompts, gold, len(rows))
