"""Tables of training data: CSV or JSON lines, plain or gzipped, read row by row.

A row that cannot be used becomes a `BadRow`, which names file, line and reason; the rows behind it are still read. What
makes the rest of a file unreadable (a truncated gzip, a quote that never closes) is a `DataError`.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from routing_service.errors import RoutebatchError

MAX_CELL = 16 * 1024 * 1024  # characters of a cell, or of a JSON line
JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}
CSV_SUFFIXES = {".csv", ".tsv"}


class DataError(RoutebatchError):
    """Training data that cannot be used at all: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out. `row` is the line of the file on which it starts, from 1; in a database its id."""

    file: str
    row: int
    reason: str
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.row}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    cells: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A file: its name, its columns (for JSON lines those of the first object) and its rows, which are read once.

    `position` says how many bytes of the file were read so far, of `size`; `unit` what its rows are numbered by.
    """

    name: str
    columns: frozenset[str]
    rows: Iterator[Row | BadRow]
    size: int
    position: Callable[[], int]
    unit: str = "line"


Content = tuple[frozenset[str], Iterator[Row | BadRow]]  # columns, rows


@contextmanager
def opened(path: Path) -> Iterator[Table]:
    """Open a table. DataError where the file cannot be read, has no header, or breaks off."""
    try:
        with path.open("rb") as file, _text(file) as stream:
            name = str(path)
            form = _form(path, stream)
            columns, rows = _READERS[form](name, stream)
            yield Table(name, columns, rows, path.stat().st_size, file.tell, "item" if form == "array" else "line")
    except csv.Error as error:
        raise DataError(f"{path}: not CSV: {error}; is a quote missing?") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: its gzip stream breaks off or is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _text(file: BinaryIO) -> TextIO:
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file
    # Bytes that are no UTF-8 come through as surrogates, so that they spoil their row and not the file.
    return TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _form(path: Path, stream: TextIO) -> str:
    """csv, lines or array (of JSON): by the name, else by the first character. Leaves the stream at its start."""
    suffixes = set(path.suffixes[-2:])
    start = stream.read(256).lstrip()
    stream.seek(0)
    if not start:
        raise DataError(f"{path} is empty")
    if suffixes & CSV_SUFFIXES:
        return "csv"
    if start.startswith("["):
        return "array"
    return "lines" if suffixes & JSON_SUFFIXES or start.startswith("{") else "csv"


def _csv_table(name: str, stream: TextIO) -> Content:
    csv.field_size_limit(MAX_CELL)
    header = stream.readline(MAX_CELL)
    delimiter = max(",;\t", key=header.count)
    columns = [column.strip() for column in next(csv.reader([header], delimiter=delimiter), [])]
    if len(set(columns)) < len(columns):
        raise DataError(f"{name}: its header names a column twice: {header.strip()[:200]}")
    return frozenset(columns), _csv_rows(name, stream, delimiter, columns)


def _csv_rows(name: str, stream: TextIO, delimiter: str, columns: list[str]) -> Iterator[Row | BadRow]:
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    start = 2
    for cells in reader:
        if len(cells) == len(columns):
            yield Row(start, dict(zip(columns, cells, strict=True)))
        elif cells:
            yield BadRow(name, start, f"it has {len(cells)} cells for {len(columns)} columns")
        start = reader.line_num + 2  # the header was read before the reader began to count


def _json_table(name: str, stream: TextIO) -> Content:
    rows = _json_rows(name, stream)
    first = next(rows)
    if isinstance(first, BadRow):
        raise DataError(f"{first}; one JSON object a line is expected")
    return frozenset(first.cells), _chain(first, rows)


def _chain(first: Row, rest: Iterator[Row | BadRow]) -> Iterator[Row | BadRow]:
    yield first
    yield from rest


def _json_rows(name: str, stream: TextIO) -> Iterator[Row | BadRow]:
    number = 0
    while line := stream.readline(MAX_CELL):
        number += 1
        if len(line) == MAX_CELL and not line.endswith("\n"):
            raise DataError(f"{name}, line {number}: it is longer than {MAX_CELL} characters")
        if line.strip():
            yield _json_row(name, number, line)


def _json_array(name: str, stream: TextIO) -> Content:
    """One JSON array of objects, as AlpacaEval writes its annotations; it is read as a whole."""
    try:
        values = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not a JSON array: {error}") from error
    rows = [
        Row(number, value) if isinstance(value, dict) else BadRow(name, number, "not a JSON object", unit="item")
        for number, value in enumerate(values, 1)
    ]
    first = next((row.cells for row in rows if isinstance(row, Row)), None)
    if first is None:
        raise DataError(f"{name} holds no JSON object")
    return frozenset(first), iter(rows)


def _json_row(name: str, number: int, line: str) -> Row | BadRow:
    try:
        value = json.loads(line)
    except RecursionError:
        return BadRow(name, number, "its JSON is nested too deeply")
    except ValueError as error:
        return BadRow(name, number, f"not JSON: {error}")
    return Row(number, value) if isinstance(value, dict) else BadRow(name, number, "not a JSON object")


_READERS: dict[str, Callable[[str, TextIO], Content]] = {
    "csv": _csv_table,
    "lines": _json_table,
    "array": _json_array,
}
