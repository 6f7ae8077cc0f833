"""The lines of a batch as ingest reads them: of its file, or those that the batch it continues left unanswered.

A file is cut into numbered lines as a stream, in bounded memory: a line that is longer than the limit is never held.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from sqlalchemy import select

from routing_service.db import Database
from routing_service.ingest.tally import Intake
from routing_service.models import Batch, FileChunk, Request, RequestState
from routing_service.openai_format.line import AUTO, Line, LineError

CHUNKS_AT_ONCE = 8
ROWS_AT_ONCE = 500

Incoming = tuple[int, Line, int, int | None]  # number, content, share of the floor, the line that it is a duplicate of


def file_lines(database: Database, batch: Batch, intake: Intake) -> Generator[Incoming]:
    """The valid lines of the batch's file."""
    limits = intake.settings.limits
    assert batch.input_file_id is not None
    with closing(_chunks(database, batch.input_file_id)) as chunks:
        for number, raw in split_lines(chunks, limits.max_line_bytes):
            if number > limits.max_lines:
                intake.refuse(
                    LineError("too_many_lines", f"The file has more than {limits.max_lines:,} lines."), number
                )
                return
            intake.total = number
            try:
                line, first = intake.take(number, raw)
            except LineError as error:
                intake.refuse(error, number)
                continue
            yield number, line, intake.count(line, first), first


def unanswered_lines(database: Database, batch: Batch, intake: Intake) -> Generator[Incoming]:
    """What the batch before this one left unanswered, numbered anew in the same order. It was checked long ago."""
    assert batch.continues is not None
    with closing(_rows(database, batch.continues)) as lines:
        numbers: dict[int, int] = {}  # of the lines with duplicates, which ended as they did, by what they were there
        for number, (line, before, answers, twin_of) in enumerate(lines, start=1):
            intake.total, intake.alias = number, line.alias
            if answers > 1:
                numbers[before] = number
            first = None if twin_of is None else numbers[twin_of]
            yield number, line, intake.count(line, first), first


def _chunks(database: Database, file_id: str) -> Generator[bytes]:
    """The file, streamed over a connection of its own: the other one is busy copying."""
    query = select(FileChunk.data).where(FileChunk.file_id == file_id).order_by(FileChunk.number)
    with database.transaction() as session:
        yield from session.scalars(query.execution_options(yield_per=CHUNKS_AT_ONCE))


def _rows(database: Database, batch_id: str) -> Generator[tuple[Line, int, int, int | None]]:
    """The unanswered lines of an ended batch, streamed likewise; with number, answers, and the line each duplicates."""
    columns = (Request.custom_id, Request.body, Request.pinned, Request.max_cost_nano)
    sizes = (Request.input_bytes, Request.output_cap, Request.choices, Request.call_digest, Request.priority)
    query = (
        select(*columns, *sizes, Request.line, Request.answers, Request.twin_of)
        .where(Request.batch_id == batch_id, Request.state != RequestState.SUCCEEDED)
        .order_by(Request.line)
        .execution_options(yield_per=ROWS_AT_ONCE)
    )
    with database.transaction() as session:
        alias = session.get_one(Batch, batch_id).model or AUTO
        for custom_id, body, *terms, number, answers, twin_of in session.execute(query):
            yield Line(custom_id, body, alias, *terms), number, answers, twin_of


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SLACK = len(BYTE_ORDER_MARK) + len(b"\r")  # what may stand around a line of exactly the limit


def split_lines(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Number (from 1) and content of each line, without its line break; None for a line longer than `limit` bytes.

    A byte order mark before the first line is skipped. Lines of white space come as they are, but not those at the
    file's end.
    """
    blanks: list[tuple[int, bytes | None]] = []
    for number, raw in enumerate(_raw_lines(chunks, limit + SLACK), start=1):
        line = _trimmed(raw, first=number == 1)
        if line is None or len(line) > limit:
            line = None
        elif not line.strip():
            # Only a few are kept: so many blank lines are refused anyway, and memory stays bounded.
            blanks = [*blanks, (number, b"")][:10]
            continue
        yield from blanks
        blanks.clear()
        yield number, line


def _trimmed(raw: bytes | None, *, first: bool) -> bytes | None:
    if raw is None:
        return None
    return (raw.removeprefix(BYTE_ORDER_MARK) if first else raw).removesuffix(b"\r")


def _raw_lines(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    tail, too_long = b"", False
    for chunk in chunks:
        pieces = (tail + chunk).split(b"\n")
        tail = pieces.pop()
        for piece in pieces:
            yield None if too_long or len(piece) > limit else piece
            too_long = False
        if too_long or len(tail) > limit:
            tail, too_long = b"", True
    if tail or too_long:
        yield None if too_long else tail
