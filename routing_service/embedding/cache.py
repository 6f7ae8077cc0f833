"""Vectors that were encoded once, on disk: by the encoder's identity and the text.

One SQLite file for all encoders and processes. What is wrong with it costs a warning and the cache, never a result.
Vectors are stored, and given to routers whether stored or not, rounded to float16: a text always has the same vector.
The library for this, diskcache, is not taken: it can be made to unpickle what lies in its directory (CVE-2025-69872, no
fix), has had no release since 2023, and would save few lines.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from routing_service.embedding.base import Floats, NotFiniteError, Progress, Shortening, unit

Half = npt.NDArray[np.float16]
Work = Callable[[sqlite3.Connection], None]

BUSY_S = 30  # that a process waits for another's writing
PAUSE_S = 300  # that a broken cache is left alone
ASKED = 500  # keys in one query
CHUNK = 4096  # texts that are looked up, encoded and kept together
SCHEMA = """
create table if not exists vectors (key blob primary key, vector blob not null, stored integer not null) without rowid;
create index if not exists vectors_by_age on vectors (stored);
"""

log = logging.getLogger(__name__)

__all__ = ["CachedEncoder", "VectorCache", "default_directory"]


def default_directory() -> Path:
    """`routebatch` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "routebatch"
    try:
        return Path.home() / ".cache" / "routebatch"
    except RuntimeError:  # a user without a home, as in containers
        return Path("/var/cache/routebatch")


class CachedEncoder:
    """An encoder that is asked for no text twice."""

    def __init__(self, encoder: Shortening, cache: VectorCache) -> None:
        self._encoder = encoder
        self._cache = cache

    @property
    def spec(self) -> str:
        return self._encoder.spec

    @property
    def identity(self) -> str:
        return self._encoder.identity

    @property
    def dimensions(self) -> int:
        return self._encoder.dimensions

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        before = self._encoder.shortened
        for start in range(0, len(texts), CHUNK):
            some = texts[start : start + CHUNK]
            vectors[start : start + CHUNK] = self._chunk(some, start, progress)
        if shortened := self._encoder.shortened - before:
            log.warning("%s read head and tail of %d texts that were too long", self.spec, shortened)
        return vectors

    def _chunk(self, texts: Sequence[str], start: int, progress: Progress | None) -> Floats:
        keys = [_key(self.identity, text) for text in texts]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        cached = self._cache.find(list(first), self.dimensions)
        new = sorted(row for key, row in first.items() if key not in cached)
        if progress:
            progress(len(texts) - len(new))
        if new:
            encoded = self._encoded([texts[row] for row in new], new, start, progress).astype(np.float16)
            wanted = [keys[row] for row in new]
            self._cache.keep(wanted, encoded)
            cached.update(zip(wanted, encoded, strict=True))
        return unit(np.stack([cached[key] for key in keys]).astype(np.float32))

    def _encoded(self, texts: Sequence[str], rows: list[int], start: int, progress: Progress | None) -> Floats:
        try:
            return self._encoder.encode(texts, progress)
        except NotFiniteError as error:  # its rows are those of the new texts
            raise NotFiniteError(error.spec, start + rows[error.row]) from None


class VectorCache:
    """The file, at most so many bytes of it in use; 0: none."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._file = directory / "embeddings.sqlite3"
        self._max_bytes = max_bytes
        self._paused_until = 0.0

    def find(self, keys: Sequence[bytes], dimensions: int) -> dict[bytes, Half]:
        """The vectors that are kept, by key."""
        vectors: dict[bytes, Half] = {}

        def read(file: sqlite3.Connection) -> None:
            for start in range(0, len(keys), ASKED):
                some = keys[start : start + ASKED]
                marks = ",".join("?" * len(some))
                query = f"select key, vector from vectors where key in ({marks})"  # noqa: S608 (question marks)
                for key, content in file.execute(query, some):
                    is_one = isinstance(content, bytes) and len(content) == 2 * dimensions
                    vector = np.frombuffer(content, np.float16) if is_one else None
                    if vector is not None and np.isfinite(vector).all():
                        vectors[key] = vector

        self._use(read)
        return vectors

    def keep(self, keys: Sequence[bytes], vectors: Half) -> None:
        """Add vectors; of those that are too many the oldest go."""
        now = time.time_ns()
        rows = [(key, vector.tobytes(), now) for key, vector in zip(keys, vectors, strict=True)]

        def write(file: sqlite3.Connection) -> None:
            with file:
                file.executemany("insert or replace into vectors values (?, ?, ?)", rows)
            while _used(file) > self._max_bytes and _drop_oldest(file):
                pass

        self._use(write)

    def _use(self, work: Work) -> None:
        """Work on the file by a connection of its own, since none survives a fork."""
        if self._max_bytes == 0 or time.monotonic() < self._paused_until:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._file, timeout=BUSY_S)) as file:
                file.execute("pragma journal_mode = wal")
                file.execute("pragma synchronous = normal")
                file.executescript(SCHEMA)
                work(file)
        except (sqlite3.Error, OSError) as error:
            self._paused_until = time.monotonic() + PAUSE_S
            log.warning("the embedding cache %s is not used: %s", self._file, error)


def _key(identity: str, text: str) -> bytes:
    return sha256(f"{identity}\0{text}".encode("utf-8", "surrogatepass")).digest()


def _used(file: sqlite3.Connection) -> int:
    """Bytes of the pages that hold something; the others are filled before the file grows."""
    pages, free, size = (
        file.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _drop_oldest(file: sqlite3.Connection) -> bool:
    """Remove the oldest tenth, and all that were stored with its last; False where nothing is left."""
    with file:
        (count,) = file.execute("select count(*) from vectors").fetchone()
        last = file.execute("select stored from vectors order by stored limit 1 offset ?", (count // 10,)).fetchone()
        return bool(last) and file.execute("delete from vectors where stored <= ?", last).rowcount > 0
