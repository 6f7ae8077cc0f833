"""A stream of bytes into numbered lines, in bounded memory: what is longer than the limit is never held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
