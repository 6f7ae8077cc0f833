"""Labels: what a router is fitted on, read from files whose forms `training.forms` recognises by their columns.

A label is a prompt and its gain: the quality of the strong model's answer minus that of the weak model's, in [-1, 1].
Nothing is dropped in silence: bad rows are named by file, line and reason, and what is left out on purpose (other
models, battles on prompts under 16 characters) is counted.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.forms import FORMS, LEAST_BATTLE_CHARACTERS, PROMPT_COLUMNS, Form, Reading, recognise, text
from training.tables import BadRow, DataError, Row, Table, opened

Floats = npt.NDArray[np.float64]

MAX_NAMED = 1000  # bad rows; all of them are counted
LISTED_PAIRS = 5

__all__ = ["BadRow", "DataError", "Labels", "Loaded", "draw", "fingerprint", "load_labels", "require_contrast", "split"]


@dataclass(frozen=True, slots=True)
class Labels:
    """`gain` in [-1, 1] and `weight` > 0, both of shape (n,); a prompt may have several labels."""

    prompts: list[str]
    gain: Floats
    weight: Floats
    source: list[str]

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.gain) == len(self.weight) == len(self.source):
            raise ValueError("labels need as many prompts, gains, weights and sources")

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> Labels:
        """The labels of these rows, in this order."""
        index = np.asarray(rows, dtype=np.intp)
        chosen = index.tolist()
        return Labels(
            [self.prompts[i] for i in chosen], self.gain[index], self.weight[index], [self.source[i] for i in chosen]
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """`bad` names at most the first 1,000; `counted`: rows, used, bad, other_models, short_prompts."""

    labels: Labels
    bad: list[BadRow]
    counted: dict[str, int]


@dataclass(slots=True)
class _Reader:
    """Labels as they are read. A prompt with many labels is held once."""

    strong: str | None
    weak: str | None
    prompts_by_id: dict[str, str] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    gain: array[float] = field(default_factory=lambda: array("d"))
    weight: array[float] = field(default_factory=lambda: array("d"))
    source: list[str] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    _known: dict[str, str] = field(default_factory=dict)

    def read_prompts(self, table: Table) -> None:
        """Prompts by their ids, for the battles of other files."""
        for row in table.rows:
            if isinstance(row, BadRow):
                self._leave_out(row)
                continue
            try:
                key = text(row.cells.get("prompt_id"), "prompt_id")
                self.prompts_by_id[key] = text(row.cells.get("prompt"), "prompt")
            except ValueError as error:
                self._leave_out(BadRow(table.name, row.number, str(error)))

    def read(self, table: Table, form: Form) -> None:
        for row in table.rows:
            self.counted["rows"] += 1
            if isinstance(row, BadRow):
                self._leave_out(row)
            else:
                self._read_row(table.name, row, form)

    def _read_row(self, name: str, row: Row, form: Form) -> None:
        try:
            reading = form.read(row.cells, self.prompts_by_id)
        except ValueError as error:
            self._leave_out(BadRow(name, row.number, str(error)))
            return
        gain = self._oriented(reading)
        if gain is None:
            self.counted["other_models"] += 1
        elif form.battle and len(reading.prompt) < LEAST_BATTLE_CHARACTERS:
            self.counted["short_prompts"] += 1
        else:
            self._add(reading, gain)

    def _oriented(self, reading: Reading) -> float | None:
        """The gain of strong over weak; None where the row is about other models."""
        if reading.pair is None:
            return reading.gain
        a, b = reading.pair
        self.pairs[(a, b) if a < b else (b, a)] += 1
        if (a, b) == (self.strong, self.weak):
            return reading.gain
        return -reading.gain if (b, a) == (self.strong, self.weak) else None

    def _add(self, reading: Reading, gain: float) -> None:
        self.prompts.append(self._known.setdefault(reading.prompt, reading.prompt))
        self.gain.append(gain)
        self.weight.append(reading.weight)
        self.source.append(reading.source)

    def _leave_out(self, row: BadRow) -> None:
        self.counted["bad"] += 1
        if len(self.bad) < MAX_NAMED:
            self.bad.append(row)

    def loaded(self) -> Loaded:
        labels = Labels(self.prompts, np.array(self.gain, float), np.array(self.weight, float), self.source)
        self.counted["used"] = len(labels)
        names = ("rows", "used", "bad", "other_models", "short_prompts")
        return Loaded(labels, self.bad, {name: self.counted[name] for name in names})


def load_labels(paths: Iterable[Path], *, strong: str | None = None, weak: str | None = None) -> Loaded:
    """Read the labels of all files, in their order. `strong` and `weak` are needed where rows name models.

    DataError: a file that cannot be read or whose columns no form has, battles without their prompts, models that are
    not named or that no row is about, no usable row at all.
    """
    if (strong is None) != (weak is None) or (strong is not None and strong == weak):
        raise DataError("name both models, strong and weak, and let them differ")
    reader = _Reader(strong, weak)
    labelled: list[tuple[Path, Form]] = []
    for path in paths:
        with opened(path) as table:
            form = recognise(table.columns, strong, weak)
            if form is not None:
                labelled.append((path, form))
            elif table.columns >= PROMPT_COLUMNS:
                reader.read_prompts(table)
            else:
                raise DataError(_unrecognised(table))
    for path, form in labelled:
        if form.by_id and not reader.prompts_by_id:
            raise DataError(f"{path} names prompts by id: give the file with columns prompt_id and prompt, too")
        with opened(path) as table:
            reader.read(table, form)
    _require_rows(reader)
    return reader.loaded()


def _unrecognised(table: Table) -> str:
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.columns))}" for form in FORMS)
    found = ", ".join(sorted(table.columns))[:300]
    return f"{table.name}: its columns are those of no form of training data: {found}. Known forms: {known}"


def _require_rows(reader: _Reader) -> None:
    if reader.prompts and not (reader.strong is None and reader.pairs):
        return
    pairs = ", ".join(f"{a} / {b} ({count} rows)" for (a, b), count in reader.pairs.most_common(LISTED_PAIRS))
    if reader.strong is None and reader.pairs:
        raise DataError(f"rows name their models: say which is strong and which is weak. Most common: {pairs}")
    if reader.counted["other_models"]:
        raise DataError(f"no usable row compares {reader.strong} with {reader.weak}. Most common: {pairs}")
    first = f"; the first: {reader.bad[0]}" if reader.bad else ""
    raise DataError(f"no usable row among {reader.counted['rows']}{first}")


def require_contrast(labels: Labels) -> None:
    """DataError where all labels say the same: such data cannot tell one prompt from another."""
    if not len(labels):
        raise DataError("there are no labels")
    if np.ptp(labels.gain) == 0:
        only = labels.gain[0]
        raise DataError(
            f"all {len(labels)} labels say the same (gain {only:g}): a router needs prompts where the models differ "
            "and prompts where they do not"
        )


def fingerprint(labels: Labels) -> str:
    """A sha256 over the labels, in their order: data of the same fingerprint give the same router."""
    digest = sha256()
    for prompt, source in zip(labels.prompts, labels.source, strict=True):
        digest.update(sha256(prompt.encode("utf-8", "surrogatepass")).digest() + source.encode() + b"\n")
    digest.update(np.ascontiguousarray(labels.gain, "<f8").tobytes())
    digest.update(np.ascontiguousarray(labels.weight, "<f8").tobytes())
    return digest.hexdigest()


def split(labels: Labels, fraction: float, seed: int) -> tuple[Labels, Labels]:
    """About `fraction` of the prompts with all their labels, and the rest.

    By sha256 of seed and prompt alone: a prompt never stands on both sides, and keeps its side when others come or go.
    """
    if not 0 <= fraction <= 1:
        raise ValueError("fraction must be within 0 and 1")
    limit = int(fraction * 2**64)
    sides = [draw(prompt, seed) < limit for prompt in labels.prompts]
    first = np.array(sides, dtype=bool)
    return labels.take(np.flatnonzero(first)), labels.take(np.flatnonzero(~first))


def draw(prompt: str, seed: int) -> int:
    """A number below 2 ** 64 that depends on seed and prompt alone."""
    key = f"{seed}\n{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(sha256(key).digest()[:8], "big")
