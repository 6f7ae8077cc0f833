"""Files: uploads kept as chunks in the database (no disk is shared between hosts), and the listing of all files.

A batch's output and error file have no chunks; their content is rendered from the requests by `results`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from io import SEEK_END
from typing import IO, Any, Literal

from sqlalchemy import Select, delete, func, insert, or_, select, text, tuple_
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from routing_service.db import Database
from routing_service.errors import ConflictError, NotFoundError, TooLargeError
from routing_service.models import Batch, BatchState, File, FileChunk, FilePurpose

CHUNK_BYTES = 256 * 1024
MAX_FILENAME = 255


def new_file_id() -> str:
    return f"file-{uuid.uuid4().hex}"


def store(
    session: Session,
    api_key_id: str,
    filename: str,
    content: IO[bytes],
    expires_after: timedelta | None = None,
    *,
    max_stored_bytes: int,
) -> File:
    """Store an upload, chunk by chunk. With the transaction rolled back, nothing of it is left.

    Raises TooLargeError (`storage_limit_exceeded`) if the key's uploads would hold more than `max_stored_bytes`.
    """
    _check_room(session, api_key_id, content.seek(0, SEEK_END), max_stored_bytes)
    content.seek(0)
    now = session.scalars(select(func.now())).one()
    file = File(
        id=new_file_id(),
        api_key_id=api_key_id,
        purpose=FilePurpose.BATCH,
        filename=_clean(filename),
        bytes=0,
        created_at=now,
        expires_at=now + expires_after if expires_after else None,
        errors=False,
    )
    session.add(file)
    session.flush()
    number = 0
    while data := content.read(CHUNK_BYTES):
        session.execute(insert(FileChunk), [{"file_id": file.id, "number": number, "data": data}])
        file.bytes += len(data)
        number += 1
    session.flush()
    # Again, for uploads beside this one: whoever ends later sees the others.
    session.execute(text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"files:{api_key_id}"})
    _check_room(session, api_key_id, 0, max_stored_bytes)
    return file


def _check_room(session: Session, api_key_id: str, more: int, max_stored_bytes: int) -> None:
    uploads = (File.api_key_id == api_key_id, File.purpose == FilePurpose.BATCH, *_alive())
    stored = int(session.scalar(select(func.coalesce(func.sum(File.bytes), 0)).where(*uploads)) or 0)
    if stored + more > max_stored_bytes:
        raise TooLargeError(
            f"your files would hold {stored + more} bytes together, more than the limit of {max_stored_bytes};"
            " delete those that you no longer need",
            code="storage_limit_exceeded",
            param="file",
        )


def get(session: Session, api_key_id: str, file_id: str, *, lock: Literal["share", "update"] | None = None) -> File:
    """The key's own file; NotFoundError if it is another's, deleted or expired."""
    query = select(File).where(File.id == file_id, File.api_key_id == api_key_id, *_alive())
    if lock:
        query = query.with_for_update(read=lock == "share")
    file = session.scalar(query)
    if file is None:
        raise NotFoundError(f"No such File object: {file_id}", param="id")
    return file


def list_files(
    session: Session,
    api_key_id: str,
    *,
    limit: int,
    after: str | None = None,
    descending: bool = True,
    purpose: str | None = None,
) -> tuple[Sequence[File], bool]:
    """A page of the key's files, and whether there are more."""
    query = select(File).where(File.api_key_id == api_key_id, *_alive())
    if purpose is not None:
        if purpose not in list(FilePurpose):
            return [], False
        query = query.where(File.purpose == FilePurpose(purpose))
    place = tuple_(File.created_at, File.id)
    if after is not None:
        cursor = _cursor(session, api_key_id, after)
        query = query.where(place < cursor if descending else place > cursor)
    order = (File.created_at.desc(), File.id.desc()) if descending else (File.created_at, File.id)
    files = session.scalars(query.order_by(*order).limit(limit + 1)).all()
    return files[:limit], len(files) > limit


def delete_file(session: Session, api_key_id: str, file_id: str) -> None:
    """Delete a file and its content. One that a batch is still to read is refused: a moment later it works."""
    file = get(session, api_key_id, file_id, lock="update")
    if batch_id := session.scalar(_readers(file.id)):
        raise ConflictError(
            f"File {file_id} is being read by batch {batch_id}; try again in a moment.", code="file_in_use", param="id"
        )
    _remove(session, file)


def remove_expired(session: Session) -> File | None:
    """Remove an expired upload with its content; None if there is none that no batch is still to read."""
    return _remove_one(session, File.expires_at <= func.now())


def remove_older(session: Session, age: timedelta) -> File | None:
    """Remove an upload of that age or older with its content; None if there is none that no batch is still to read."""
    return _remove_one(session, File.created_at <= func.now() - age)


def count_older(session: Session, age: timedelta) -> tuple[int, int]:
    """How many uploads `remove_older` would find, and their bytes."""
    query = select(func.count(), func.coalesce(func.sum(File.bytes), 0))
    files, size = session.execute(query.where(*_removable(File.created_at <= func.now() - age))).one()
    return files, int(size)


def _removable(condition: ColumnElement[bool]) -> tuple[ColumnElement[bool], ...]:
    return File.purpose == FilePurpose.BATCH, File.deleted_at.is_(None), condition, ~_readers(File.id).exists()


def _remove_one(session: Session, condition: ColumnElement[bool]) -> File | None:
    query = select(File).where(*_removable(condition)).order_by(File.created_at).limit(1)
    file = session.scalar(query.with_for_update(skip_locked=True))
    if file is None or session.scalar(_readers(file.id)):  # a batch that was created since the row was looked for
        return None
    _remove(session, file)
    return file


def _remove(session: Session, file: File) -> None:
    file.deleted_at = session.scalar(select(func.now()))
    session.execute(delete(FileChunk).where(FileChunk.file_id == file.id))


def _readers(file_id: Any) -> Select[str]:
    """A batch that is still to read the file. One that continues another reads that one's lines."""
    reading = (Batch.state == BatchState.VALIDATING, Batch.continues.is_(None))
    return select(Batch.id).where(Batch.input_file_id == file_id, *reading).limit(1)


def chunks(database: Database, file_id: str) -> Iterator[bytes]:
    """The bytes of an upload. Each chunk is its own short transaction: a slow reader holds no connection."""
    number = 0
    while True:
        with database.transaction() as session:
            query = select(FileChunk.data).where(FileChunk.file_id == file_id, FileChunk.number == number)
            data = session.scalar(query)
        if data is None:
            return
        yield data
        number += 1


def _alive() -> tuple[ColumnElement[bool], ...]:
    return File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > func.now())


def _cursor(session: Session, api_key_id: str, file_id: str) -> Any:
    """The place of a file in the listing. It may have been deleted since: paging goes on from where it was."""
    row = session.execute(
        select(File.created_at, File.id).where(File.id == file_id, File.api_key_id == api_key_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"No such File object: {file_id}", param="after")
    return tuple_(*row)


def _clean(filename: str) -> str:
    """A client's name for its file, fit for the database and a header: no path, no control characters."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in name if c.isprintable())[:MAX_FILENAME] or "upload.jsonl"
