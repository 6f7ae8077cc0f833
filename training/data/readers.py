"""Comparisons from files, whose forms `training.data.forms` recognises by their columns.

Nothing is dropped in silence: bad rows are named by file, line and reason, and what is left out on purpose (battles on
prompts under 16 characters, and of a model with itself) is counted.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from training.data.comparisons import ROLES, Comparisons, Pair
from training.data.forms import FORMS, LEAST_BATTLE_CHARACTERS, PROMPT_COLUMNS, Cells, Form, Reading, recognise, text
from training.data.tables import BadRow, DataError, Row, Table, opened
from training.progress import Progress, silent

MAX_NAMED = 1000  # bad rows; all of them are counted
COUNTED = ("rows", "used", "bad", "other_models", "other_ratings", "short_prompts", "same_model")
STEP = 1024  # rows between two reports of progress
NO_RATING = float("nan")

NO_CELLS: Mapping[str, Any] = {}

__all__ = ["Collector", "Loaded", "Sink", "load_comparisons", "named_pair", "read_files"]


class Sink(Protocol):
    """What takes the rows of files as they are read. `pair` names the models of tables that name none."""

    @property
    def pair(self) -> Pair | None: ...

    @property
    def counted(self) -> Counter[str]: ...

    def add(self, reading: Reading, cells: Cells) -> None:
        """ValueError with the reason where it cannot be used. `cells`: the whole row."""

    def leave_out(self, row: BadRow) -> None: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """`bad` names at most the first 1,000. Of the `rows` counted, each is `used`, `bad`, `short_prompts`,
    `same_model` or `other_ratings` (of a model that is not the weak one); `other_models` are those of the used ones
    that are not about the pair, where one is named.
    """

    comparisons: Comparisons
    bad: list[BadRow]
    counted: dict[str, int]


@dataclass(slots=True)
class Collector:
    """Comparisons as they are read, in numbers: 41 bytes a row, and every prompt, model and source once."""

    pair: Pair | None = None
    bad: list[BadRow] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    _prompts: dict[str, int] = field(default_factory=dict)
    _models: dict[str, int] = field(default_factory=dict)
    _sources: dict[str, int] = field(default_factory=dict)
    _prompt: array[int] = field(default_factory=lambda: array("i"))
    _model_a: array[int] = field(default_factory=lambda: array("i"))
    _model_b: array[int] = field(default_factory=lambda: array("i"))
    _source: array[int] = field(default_factory=lambda: array("b"))
    _outcome: array[float] = field(default_factory=lambda: array("d"))
    _weight: array[float] = field(default_factory=lambda: array("d"))
    _rating: array[float] = field(default_factory=lambda: array("d"))
    _rated: bool = False

    def add(self, reading: Reading, cells: Cells = NO_CELLS) -> None:
        if reading.rated is not None and reading.rated != self._weak(reading.rated):
            self.counted["other_ratings"] += 1
            return
        a, b = reading.pair or self.pair or ROLES
        self._prompt.append(self._prompts.setdefault(reading.prompt, len(self._prompts)))
        self._model_a.append(self._models.setdefault(a, len(self._models)))
        self._model_b.append(self._models.setdefault(b, len(self._models)))
        self._source.append(self._sources.setdefault(reading.source, len(self._sources)))
        self._outcome.append(reading.outcome)
        self._weight.append(reading.weight)
        self._rating.append(NO_RATING if reading.rating is None else reading.rating)
        self._rated = self._rated or reading.rating is not None

    def leave_out(self, row: BadRow) -> None:
        self.counted["bad"] += 1
        if len(self.bad) < MAX_NAMED:
            self.bad.append(row)

    def _weak(self, rated: str) -> str:
        """The weak model's name. DataError where nobody has said which it is."""
        if self.pair is None and rated != ROLES[1]:
            raise DataError(f"ratings of {rated[:80]!r} name their model: say which model is strong and which is weak")
        return (self.pair or ROLES)[1]

    def loaded(self) -> Loaded:
        """DataError where no row could be used, or none is about a model of the pair."""
        comparisons = self._comparisons()
        if not len(comparisons):
            first = f"; the first: {self.bad[0]}" if self.bad else ""
            if others := self.counted["other_ratings"]:
                raise DataError(f"{others:,} ratings are of other models than the weak one{first}")
            raise DataError(f"no usable row among {self.counted['rows']}{first}")
        if self.pair is not None and not self._models.keys() >= set(self.pair):
            strong, weak = self.pair
            raise DataError(f"no usable row compares {strong} with {weak}. {comparisons.most_common_pairs()}")
        self.counted["used"] = len(comparisons)
        if comparisons.pair is not None:
            self.counted["other_models"] = len(comparisons) - len(comparisons.of_pair()[0])
        return Loaded(comparisons, self.bad, {name: self.counted[name] for name in COUNTED})

    def _comparisons(self) -> Comparisons:
        sources = list(self._sources)
        return Comparisons(
            list(self._prompts),
            list(self._models),
            np.array(self._prompt, np.int32),
            np.array(self._model_a, np.int32),
            np.array(self._model_b, np.int32),
            np.array(self._outcome, float),
            np.array(self._weight, float),
            [sources[code] for code in self._source],
            self.pair or (ROLES if self._models.keys() <= set(ROLES) else None),
            np.array(self._rating, float) if self._rated else None,
        )


@dataclass(slots=True)
class _Reader:
    """What goes from tables into a sink."""

    into: Sink
    prompts_by_id: dict[str, str] = field(default_factory=dict)

    def read_prompts(self, table: Table) -> None:
        """Prompts by their ids, for the battles of other files."""
        for row in table.rows:
            if isinstance(row, BadRow):
                self.into.leave_out(row)
                continue
            try:
                key = text(row.cells.get("prompt_id"), "prompt_id")
                self.prompts_by_id[key] = text(row.cells.get("prompt"), "prompt")
            except ValueError as error:
                self.into.leave_out(BadRow(table.name, row.number, str(error), table.unit))

    def read(self, table: Table, form: Form, progress: Progress) -> None:
        """Advances by bytes of the file: how many rows it has is known at its end."""
        with progress(f"reading {Path(table.name).name}", table.size) as advance:
            before = 0
            for count, row in enumerate(table.rows, 1):
                self._read_row(table, row, form)
                if count % STEP == 0:
                    advance(table.position() - before)
                    before = table.position()
            advance(table.size - before)

    def _read_row(self, table: Table, row: Row | BadRow, form: Form) -> None:
        counted = self.into.counted
        counted["rows"] += 1
        if isinstance(row, BadRow):
            self.into.leave_out(row)
            return
        try:
            reading = form.read(row.cells, self.prompts_by_id)
            if reading.pair is not None and reading.pair[0] == reading.pair[1]:
                counted["same_model"] += 1
            elif form.battle and len(reading.prompt) < LEAST_BATTLE_CHARACTERS:
                counted["short_prompts"] += 1
            else:
                self.into.add(reading, row.cells)
        except ValueError as error:
            self.into.leave_out(BadRow(table.name, row.number, str(error), table.unit))


def load_comparisons(
    paths: Iterable[Path], *, strong: str | None = None, weak: str | None = None, progress: Progress = silent
) -> Loaded:
    """Read the comparisons of all files, in their order.

    `strong` and `weak` name the pair, and the models of tables that name none. Without them the pair is `ROLES` if no
    row names other models; else there is none, for methods that need none. Comparisons of other models are kept.

    DataError: a file that cannot be read or whose columns no form has, battles without their prompts, a model of the
    pair that no row is about, no usable row at all.
    """
    into = Collector(named_pair(strong, weak))
    read_files(paths, into, progress)
    return into.loaded()


def read_files(
    paths: Iterable[Path], into: Sink, progress: Progress = silent, forms: Collection[str] | None = None
) -> None:
    """Add the comparisons of all files, which have one of these forms. Files of prompts are read before those of
    battles on them."""
    reader = _Reader(into)
    strong, weak = into.pair or (None, None)
    labelled: list[tuple[Path, Form]] = []
    for path in paths:
        with opened(path) as table:
            form = recognise(table.columns, strong, weak, forms)
            if form is not None:
                labelled.append((path, form))
            elif table.columns >= PROMPT_COLUMNS and (forms is None or "battles" in forms):
                reader.read_prompts(table)
            else:
                raise DataError(_unrecognised(table, forms))
    for path, form in labelled:
        if form.by_id and not reader.prompts_by_id:
            raise DataError(f"{path} names prompts by id: give the file with columns prompt_id and prompt, too")
        with opened(path) as table:
            reader.read(table, form, progress)


def named_pair(strong: str | None, weak: str | None) -> Pair | None:
    """DataError unless both are named and differ, or neither is named."""
    if strong is None and weak is None:
        return None
    if not strong or not weak or strong == weak:
        raise DataError("name both models, strong and weak, and let them differ")
    return strong, weak


def _unrecognised(table: Table, forms: Collection[str] | None) -> str:
    known = [f"{form.name}: {', '.join(sorted(form.columns))}" for form in FORMS if forms is None or form.name in forms]
    if forms is None or "responses" in forms:
        known.append("responses: prompt and a column called after each model, which strong and weak name")
    columns = ", ".join(sorted(table.columns))[:300]
    wanted = "no form of training data" if forms is None else "none of the forms that are asked for"
    return f"{table.name}: its columns are those of {wanted}: {columns}. Known forms: {'; '.join(known)}"
