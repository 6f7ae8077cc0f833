"""A file of prompts, or stdin, made ready for the upload: what `routebatch submit` takes.

An OpenAI batch file is uploaded as it is. Prompts in JSON lines, CSV or text are converted line by line into a
temporary file; nothing is ever held in memory as a whole. What cannot be converted is named by line and reason.

`prepared` finds the form and converts; below it the readers of each form, which give a `Record` for every prompt with
the line it stands on.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click

BATCH, JSONL, CSV, TEXT = "batch", "jsonl", "csv", "text"
FORMATS = (BATCH, JSONL, CSV, TEXT)
STDIN = "-"
MODEL = "routebatch-auto"
BATCH_KEYS = {"custom_id", "method", "url"}
PROMPT_KEYS = {"prompt", "messages"}
BY_SUFFIX = {".csv": CSV, ".tsv": CSV, ".txt": TEXT, ".jsonl": JSONL, ".ndjson": JSONL, ".json": JSONL}
LISTED = 10  # bad lines
BOM = "\ufeff"
MAX_LINE_BYTES = 16 * 1024 * 1024
# of a chat body, kept as they are (the server says which of them it takes); what else a line holds is data about it
CHAT_PARAMETERS = """
    model max_tokens max_completion_tokens temperature top_p n stop presence_penalty frequency_penalty logit_bias
    logprobs top_logprobs response_format seed tools tool_choice parallel_tool_calls user reasoning_effort verbosity
    stream stream_options store functions function_call modalities audio prediction service_tier web_search_options
    top_k min_p
"""
PARAMETERS = frozenset(CHAT_PARAMETERS.split())
OWN_KEYS = {"custom_id", "prompt", "messages", "routing"}

file_argument = click.argument(
    "file",
    metavar="[FILE]",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    required=False,
    help="A file of prompts; - for stdin.",
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Read the file in this format. Default: the one that its first line and its name tell.",
)


class InputError(click.ClickException):
    """A file that cannot be used: where it is wrong, and why."""


class BadLine(Exception):
    """A line that cannot be used."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


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


@dataclass(slots=True)
class Record:
    """A prompt, or the reason why there is none."""

    line: int
    prompt: Any = None
    messages: Any = None
    custom_id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    routing: Any = None
    ignored: list[str] = field(default_factory=list)
    error: str | None = None
    blank: bool = False  # a line without anything: no prompt, and no mistake


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


def messages_of(record: Record) -> list[Any]:
    """The record's messages, or its prompt as the one message. Raises BadLine."""
    if record.messages is not None:
        if record.prompt is not None:
            raise BadLine(record.line, "it has both `prompt` and `messages`")
        if not isinstance(record.messages, list) or not record.messages:
            raise BadLine(record.line, "`messages` must be a list of at least one message")
        return record.messages
    if not isinstance(record.prompt, str):
        raise BadLine(record.line, "`prompt` must be a string" if record.prompt is not None else "it has no `prompt`")
    if not record.prompt.strip():
        raise BadLine(record.line, "the prompt is empty")
    if "\0" in record.prompt:
        raise BadLine(record.line, "it holds a NUL character; is this a text file?")
    return [{"role": "user", "content": record.prompt}]


def decoded(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """The lines as text, numbered from 1, line ends kept. Raises BadLine for bytes that are no UTF-8."""
    number = 0
    while data := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(data) > MAX_LINE_BYTES:
            raise BadLine(number, f"it is longer than {MAX_LINE_BYTES // 1024**2} MiB")
        try:
            line = data.decode()
        except UnicodeDecodeError as error:
            raise BadLine(number, f"byte 0x{data[error.start]:02x} is no UTF-8; save the file as UTF-8 text") from None
        yield number, line.removeprefix(BOM) if number == 1 else line


def read_text(stream: BinaryIO) -> Iterator[Record]:
    """A prompt a line."""
    for number, line in decoded(stream):
        yield Record(number, prompt=line.rstrip("\r\n"), blank=not line.strip())


def read_jsonl(stream: BinaryIO) -> Iterator[Record]:
    """`{"prompt": ...}` or `{"messages": ...}` a line, chat parameters beside them."""
    for number, line in decoded(stream):
        yield _json_record(number, line) if line.strip() else Record(number, blank=True)


def _json_record(number: int, line: str) -> Record:
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except RecursionError:
        return Record(number, error="its JSON is nested too deeply")
    except ValueError as error:
        return Record(number, error=f"not JSON: {error}")
    if not isinstance(value, dict):
        return Record(number, error="not a JSON object")
    custom_id = value.get("custom_id")
    if custom_id is not None and (isinstance(custom_id, bool) or not isinstance(custom_id, str | int)):
        return Record(number, error="`custom_id` must be a string")
    return Record(
        number,
        prompt=value.get("prompt"),
        messages=value.get("messages"),
        custom_id=None if custom_id is None else str(custom_id),
        parameters={key: value[key] for key in value if key in PARAMETERS},
        routing=value.get("routing"),
        ignored=[key for key in value if key not in PARAMETERS and key not in OWN_KEYS],
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def csv_delimiter(header: str) -> str | None:
    """The delimiter by which a header names a `prompt` column; None if it names none."""
    for delimiter in ",;\t":
        try:
            row = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            continue
        if "prompt" in _names(row):
            return delimiter
    return None


def _names(header: list[str]) -> list[str]:
    return [name.strip().lower() for name in header]


def read_csv(stream: BinaryIO) -> Iterator[Record]:
    """A row a prompt, from the column `prompt`; a column `custom_id` is taken, others are not. Raises BadLine."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(decoded(stream))
    header = lines.peek()
    delimiter = csv_delimiter(header)
    if delimiter is None:
        raise BadLine(1, f"the header names no column `prompt`: {header.strip()[:200] or 'it is blank'}")
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names = _names(next(rows))
    cell = _cells(names)
    while True:
        start = lines.number + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise BadLine(start, f"not CSV: {error}") from None
        if row is None:
            return
        if not any(value.strip() for value in row):
            yield Record(start, blank=True)
        elif len(row) > len(names):
            yield Record(start, error=f"it has {len(row)} cells for {len(names)} columns; is a quote missing?")
        else:
            yield Record(start, prompt=cell(row, "prompt") or "", custom_id=cell(row, "custom_id"))


def _cells(names: list[str]) -> Callable[[list[str], str], str | None]:
    places = {name: place for place, name in reversed(list(enumerate(names)))}

    def cell(row: list[str], name: str) -> str | None:
        place = places.get(name)
        return row[place] or None if place is not None and place < len(row) else None

    return cell


class _Lines:
    """Decoded lines for a CSV reader, which knows how many it took: its records may span several."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self._held: str | None = None
        self.number = 0

    def peek(self) -> str:
        """The first line, which the reader will see again; "" for a file without any."""
        _, self._held = next(self._lines, (0, ""))
        return self._held

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._held is not None:
            line, self._held, self.number = self._held, None, 1
            return line
        self.number, line = next(self._lines)
        return line
