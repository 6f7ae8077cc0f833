"""/v1/files: uploads, and the output and error files of batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from routing_service.api import uploads
from routing_service.api.context import After, KeyId, ObjectId, Use
from routing_service.api.replies import list_reply, reply
from routing_service.models import File
from routing_service.openai_format import files, output
from routing_service.service import Service

router = APIRouter(prefix="/v1/files")


@router.post("")
async def upload_file(request: Request, key_id: KeyId, service: Use) -> Response:
    async with uploads.receive(request, service.settings.limits.max_file_bytes) as upload:
        file = await run_in_threadpool(_store, service, key_id, upload)
    return reply(file_object(file))


@router.get("")
def list_files(
    key_id: KeyId,
    service: Use,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: After = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Response:
    with service.database.transaction() as session:
        page, more = files.list_files(
            session, key_id, limit=limit, after=after, descending=order == "desc", purpose=purpose
        )
    return list_reply([file_object(file) for file in page], more)


@router.get("/{file_id}")
def retrieve_file(file_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    with service.database.transaction() as session:
        return reply(file_object(files.get(session, key_id, file_id)))


@router.delete("/{file_id}")
def delete_file(file_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    with service.database.transaction() as session:
        files.delete_file(session, key_id, file_id)
    return reply({"id": file_id, "object": "file", "deleted": True})


@router.get("/{file_id}/content")
def file_content(file_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    """The bytes, whatever the client says it accepts."""
    with service.database.transaction() as session:
        file = files.get(session, key_id, file_id)
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}"}
    if file.batch_id is None:
        headers["content-length"] = str(file.bytes)
    return StreamingResponse(_content(service, file), media_type="application/octet-stream", headers=headers)


def file_object(file: File) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def _store(service: Service, key_id: str, upload: uploads.Upload) -> File:
    with service.database.transaction() as session:
        return files.store(
            session,
            key_id,
            upload.filename,
            upload.content,
            upload.expires_after,
            max_stored_bytes=service.settings.limits.max_stored_bytes_per_key,
        )


def _content(service: Service, file: File) -> Iterator[bytes]:
    if file.batch_id is None:
        return files.chunks(service.database, file.id)
    return output.render(service.database, file.batch_id, errors=file.errors)
