"""Replay: real answers, recorded earlier. A known prompt gets the recorded answer of the model it asks."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sandbox.config import SandboxConfig
from sandbox.wire import Refusal

COLUMNS = ("prompt", "strong_response", "weak_response")
MAX_FIELD = 16 * 1024 * 1024


class ReplayAnswers:
    """Answers from a table with the columns prompt, strong_response and weak_response; others are ignored."""

    fingerprint = "replay"

    def __init__(self, config: SandboxConfig, path: Path) -> None:
        self._config = config
        self._recorded = read_table(path)

    def answer(self, model: str, prompt: str, choice: int) -> str:
        """The recorded answer, the same for every choice; an unknown model or prompt is a 404."""
        strong = self._config.is_strong(model)
        if strong is None:
            known = f"{self._config.strong_model!r} and {self._config.weak_model!r}"
            raise Refusal(
                404, f"The model {model!r} does not exist; known are {known}.", param="model", code="model_not_found"
            )
        recorded = self._recorded.get(prompt)
        if recorded is None:
            raise Refusal(
                404,
                f"No answer is recorded for this prompt: {prompt[:80]!r}.",
                param="messages",
                code="prompt_not_in_replay",
            )
        return recorded[0] if strong else recorded[1]


def read_table(path: Path) -> dict[str, tuple[str, str]]:
    """prompt (stripped) -> (strong answer, weak answer); of a prompt given twice the first row counts.

    Raises ValueError, naming the file, where the table cannot be used, and OSError where it cannot be read.
    """
    with _opened(path) as file:
        csv.field_size_limit(MAX_FIELD)
        try:
            return _read_rows(path, csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError, EOFError) as error:
            raise ValueError(f"{path} is not a readable CSV file: {error}") from error


def _read_rows(path: Path, reader: csv.DictReader[str]) -> dict[str, tuple[str, str]]:
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; a replay needs {', '.join(COLUMNS)}")
    recorded: dict[str, tuple[str, str]] = {}
    for row in reader:
        if any(row[name] is None for name in COLUMNS):
            raise ValueError(f"{path}, line {reader.line_num}: the row is too short")
        recorded.setdefault(row["prompt"].strip(), (row["strong_response"], row["weak_response"]))
    if not recorded:
        raise ValueError(f"{path} holds no answers")
    return recorded


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
