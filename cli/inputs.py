"""What `routebatch submit` takes: a file or stdin in one of four forms, made ready for the upload.

An OpenAI batch file is uploaded as it is. Prompts in JSON lines, CSV or text are converted line by line into a
temporary file; nothing is ever held in memory as a whole. What cannot be converted is named by line and reason.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click

from cli.records import BadLine, Record, csv_delimiter, decoded, messages_of, read_csv, read_jsonl, read_text

BATCH, JSONL, CSV, TEXT = "batch", "jsonl", "csv", "text"
FORMATS = (BATCH, JSONL, CSV, TEXT)
STDIN = "-"
MODEL = "routebatch-auto"
BATCH_KEYS = {"custom_id", "method", "url"}
PROMPT_KEYS = {"prompt", "messages"}
BY_SUFFIX = {".csv": CSV, ".tsv": CSV, ".txt": TEXT, ".jsonl": JSONL, ".ndjson": JSONL, ".json": JSONL}
LISTED = 10  # bad lines


class InputError(click.ClickException):
    """A file that cannot be used: where it is wrong, and why."""


@dataclass(slots=True)
class Prepared:
    """A file ready for the upload."""

    stream: BinaryIO
    name: str
    format: str
    sources: array[int] | None = None  # by line of the upload: its line in the input; None where they are the same
    notes: list[str] = field(default_factory=list)

    def source_line(self, line: int) -> int:
        """The input's line that became a line of the upload (both from 1)."""
        if self.sources is None or not 1 <= line <= len(self.sources):
            return line
        return self.sources[line - 1]


@contextmanager
def prepared(source: str, wanted: str | None = None) -> Iterator[Prepared]:
    """Open `source` ("-": stdin), find its format unless it is given, and convert it. Raises InputError."""
    with ExitStack() as stack:
        stream = stack.enter_context(_spooled() if source == STDIN else _opened(source))
        name = "stdin" if source == STDIN else Path(source).name
        form = wanted or _sniff(stream, name)
        stream.seek(0)
        if form == BATCH:
            yield Prepared(stream, name, BATCH)
            return
        target = stack.enter_context(tempfile.TemporaryFile(prefix="routebatch-"))
        ready = _convert(stream, target, name, form)
        target.seek(0)
        yield ready


def _opened(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error


@contextmanager
def _spooled() -> Iterator[BinaryIO]:
    """Stdin as a file: it is read more than once, and an upload may have to start again."""
    with tempfile.TemporaryFile(prefix="routebatch-") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        yield spool


def _sniff(stream: BinaryIO, name: str) -> str:
    """The format, by the first line that is not blank, then by the file's name."""
    try:
        number, first = next(((n, line) for n, line in decoded(stream) if line.strip()), (0, ""))
    except BadLine as error:
        raise InputError(f"{name}: {error}") from error
    if not first:
        raise InputError(f"{name} is empty")
    by_name = BY_SUFFIX.get(Path(name).suffix.lower())
    if by_name == CSV:
        return CSV
    if by_name == JSONL or first.lstrip().startswith("{"):
        return _json_form(first, f"{name}: line {number}")
    return by_name or (CSV if csv_delimiter(first) else TEXT)


def _json_form(first: str, where: str) -> str:
    """Which of the JSON forms a first line has. A broken one must not be taken for a prompt, which would cost money."""
    hint = "one JSON object a line is expected (--format says what else this is)"
    try:
        value = json.loads(first)
    except RecursionError:
        raise InputError(f"{where}: its JSON is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}; {hint}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a JSON object; {hint}")
    if "body" in value:
        return BATCH
    if PROMPT_KEYS & value.keys():
        return JSONL
    if BATCH_KEYS & value.keys():
        return BATCH  # the server says what is missing
    raise InputError(f"{where}: it has neither `body` (an OpenAI batch line) nor `prompt` nor `messages`")


def _convert(stream: BinaryIO, target: BinaryIO, name: str, form: str) -> Prepared:
    """Write the records of `stream` as OpenAI batch lines. Raises InputError with the first bad lines."""
    sources, bad, ignored = array("L"), [], Counter[str]()
    blank = 0
    readers = {JSONL: read_jsonl, CSV: read_csv, TEXT: read_text}
    try:
        for record in readers[form](stream):
            if record.blank:
                blank += 1
                continue
            ignored.update(record.ignored)
            try:
                target.write(batch_line(record))
            except BadLine as error:
                bad.append(str(error))
                if len(bad) > LISTED:
                    break
            sources.append(record.line)
    except BadLine as error:  # nothing can be read behind it
        bad.append(str(error))
    if bad:
        more = ["more lines are bad"] if len(bad) > LISTED else []
        raise InputError("\n  ".join([f"{name} cannot be used:", *bad[:LISTED], *more]))
    if not sources:
        raise InputError(f"{name} holds no prompts")
    notes = [f"ignored `{key}` in {count} lines: not a chat parameter" for key, count in ignored.items()]
    if blank:
        notes.append(f"skipped {blank:,} blank line{'s' if blank > 1 else ''}: nothing comes back for them")
    return Prepared(target, f"{Path(name).stem}.jsonl", form, sources, notes)


def batch_line(record: Record) -> bytes:
    """A record as a line of an OpenAI batch file. Raises BadLine."""
    if record.error:
        raise BadLine(record.line, record.error)
    body: dict[str, Any] = {"model": MODEL, **record.parameters, "messages": messages_of(record)}
    line: dict[str, Any] = {
        "custom_id": record.custom_id if record.custom_id is not None else f"line-{record.line}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }
    if record.routing is not None:
        line["routing"] = record.routing
    try:
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        raise BadLine(record.line, "it holds half of a surrogate pair, which is no character") from None
