"""Comparisons from files into the database: streamed by COPY, in one transaction, each of them once.

A row's identity is its `digest` where it names one (as an export does), else a digest of its content and of how many
like it came before it in the same import. So a file that is imported twice adds nothing, and two battles of one file
that say the same stay two.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from training.data.comparisons import Pair
from training.data.forms import SOURCES, Cells, Reading
from training.data.readers import named_pair, read_files
from training.data.tables import BadRow, DataError
from training.progress import Progress, silent

FORMATS: dict[str, frozenset[str]] = {  # the forms that each may have
    "arena": frozenset(("arena",)),
    "routellm": frozenset(("outcomes", "responses")),
    "alpaca": frozenset(("alpaca", "battles")),
    "jsonl": frozenset(("comparisons",)),
}
MAX_NAMED = 100  # bad rows; all of them are counted
MAX_LINE = 2**31 - 1
TIMES = ("created_at", "tstamp")  # ours and Chatbot Arena's
Where = tuple[str | None, int | None, str | None]  # batch, line, key

_INCOMING = text("""
create temporary table incoming (
    number integer generated always as identity, digest bytea, source comparison_source, prompt text, model_a text,
    model_b text, outcome real, weight real, created_at timestamptz, batch_id text, line integer, api_key_id text
) on commit drop
""")
_COPY = (
    "copy incoming (digest, source, prompt, model_a, model_b, outcome, weight, created_at, batch_id, line, api_key_id)"
    " from stdin"
)
# A batch or key of another database is forgotten.
_INSERT = text("""
insert into comparisons (digest, source, prompt, model_a, model_b, outcome, weight, created_at, batch_id, line,
                         api_key_id)
select i.digest, i.source, i.prompt, i.model_a, i.model_b, i.outcome, i.weight, coalesce(i.created_at, now()),
       b.id, case when b.id is not null then i.line end, k.id
from incoming i left join batches b on b.id = i.batch_id left join api_keys k on k.id = i.api_key_id
order by i.number on conflict (digest) do nothing
""")

__all__ = ["FORMATS", "Imported", "import_comparisons"]


class BadRowsError(DataError):
    """Some rows cannot be used, and nothing was added. `imported` names and counts them."""

    def __init__(self, imported: Imported) -> None:
        super().__init__(f"{imported.bad:,} bad rows of {imported.rows:,}: nothing was imported")
        self.imported = imported


@dataclass(frozen=True, slots=True)
class Imported:
    """Of `rows`, so many were `added`, `known` (imported before), `bad`, or battles that are left out (`short_prompts`,
    `same_model`). `bad_rows` names the first hundred."""

    rows: int
    added: int
    known: int
    bad: int
    short_prompts: int
    same_model: int
    bad_rows: list[BadRow]


@dataclass(slots=True)
class _Incoming:
    """The sink that writes each row to the COPY."""

    copy: psycopg.Copy
    source: str | None
    pair: Pair | None
    counted: Counter[str] = field(default_factory=Counter)
    bad_rows: list[BadRow] = field(default_factory=list)
    _seen: Counter[bytes] = field(default_factory=Counter)

    def add(self, reading: Reading, cells: Cells) -> None:
        a, b = reading.pair or self._named()
        source = self.source or reading.source
        outcome, weight = _real(reading.outcome, "outcome"), _real(reading.weight, "weight")
        if not weight:
            raise ValueError(f"`weight` is {reading.weight:g}, which is too small to be stored")
        at = _time(cells)
        for value in (reading.prompt, a, b):
            if "\0" in value:
                raise ValueError("it holds a NUL character, which text cannot store")
        batch_id, line, key_id = _where(cells)
        content = [source, reading.prompt, a, b, outcome, weight, None if at is None else at.isoformat()]
        digest = _digest(cells) or self._content_digest(content)
        row = (digest, source, reading.prompt, a, b, outcome, weight, at, batch_id, line, key_id)
        self.copy.write_row(row)
        self.counted["read"] += 1

    def leave_out(self, row: BadRow) -> None:
        self.counted["bad"] += 1
        if len(self.bad_rows) < MAX_NAMED:
            self.bad_rows.append(row)

    def result(self, added: int) -> Imported:
        c = self.counted
        known = c["read"] - added
        return Imported(c["rows"], added, known, c["bad"], c["short_prompts"], c["same_model"], self.bad_rows)

    def _named(self) -> Pair:
        if self.pair is None:
            raise DataError("these rows name no models: say which is strong and which is weak")
        return self.pair

    def _content_digest(self, content: list[Any]) -> bytes:
        once = sha256(json.dumps(content).encode()).digest()
        self._seen[once] += 1
        return sha256(once + self._seen[once].to_bytes(8, "big")).digest()


def import_comparisons(
    session: Session,
    paths: Iterable[Path],
    form: str | None = None,
    *,
    source: str | None = None,
    strong: str | None = None,
    weak: str | None = None,
    skip_bad: bool = False,
    progress: Progress = silent,
) -> Imported:
    """Add the comparisons of all files to the session's transaction. Their form is recognised by their columns: one of
    any FORMATS, or of the one that is named.

    `source` replaces what the rows say. `strong` and `weak` name the models of tables that name none. BadRowsError
    where a row cannot be used, unless they are skipped; DataError where a file cannot be used: the caller rolls back.
    """
    if source is not None and source not in SOURCES:
        raise ValueError(f"{source!r} is no source of comparisons")
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    session.execute(_INCOMING)
    with closing(connection.cursor()) as cursor, cursor.copy(_COPY) as copy:
        incoming = _Incoming(copy, source, named_pair(strong, weak))
        read_files(paths, incoming, progress, FORMATS[form] if form else frozenset().union(*FORMATS.values()))
    if incoming.counted["bad"] and not skip_bad:
        raise BadRowsError(incoming.result(0))
    added = session.connection().execute(_INSERT).rowcount
    return incoming.result(added)


def _real(value: float, name: str) -> float:
    """As the database stores it, so that an export has the same content."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise ValueError(f"`{name}` is {value:g}, which is too large to be stored") from None
    return rounded


def _time(cells: Cells) -> datetime | None:
    """When the preference was given: seconds since 1970, or ISO 8601 (in UTC unless it says otherwise)."""
    name = next((name for name in TIMES if cells.get(name) not in (None, "")), None)
    if name is None:
        return None
    value = cells[name]
    try:
        moment = _epoch(value) or datetime.fromisoformat(str(value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"`{name}` is no time: {str(value)[:40]!r}") from None


def _epoch(value: Any) -> datetime | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _where(cells: Cells) -> Where:
    """The request that it is about and the key whose vote it is, where a row says so."""
    ids: list[str | None] = []
    for name in ("batch_id", "api_key_id"):
        value = cells.get(name) or None
        if value is not None and (not isinstance(value, str) or not value.isprintable()):
            raise ValueError(f"`{name}` is no id: {str(value)[:40]!r}")
        ids.append(value)
    line = cells.get("line")
    if line in (None, ""):
        return ids[0], None, ids[1]
    if isinstance(line, bool) or not str(line).isdecimal() or not 1 <= int(line) <= MAX_LINE:
        raise ValueError(f"`line` is no line: {str(line)[:40]!r}")
    return ids[0], int(line), ids[1]


def _digest(cells: Cells) -> bytes | None:
    value = cells.get("digest")
    if value in (None, ""):
        return None
    try:
        digest = bytes.fromhex(value)
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"`digest` is no SHA-256 in hexadecimal: {str(value)[:40]!r}")
    return digest
