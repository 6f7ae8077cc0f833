"""Reading an upload: multipart, bounded while it is read, spooled to disk, never whole in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from routing_service.errors import InvalidRequestError, TooLargeError

FRAMING_BYTES = 64 * 1024  # what the multipart form may hold beside the file
LEAST_EXPIRY_S, MOST_EXPIRY_S = 3600, 2_592_000


@dataclass(frozen=True, slots=True)
class Upload:
    """A form that was received whole."""

    filename: str
    content: BinaryIO
    expires_after: timedelta | None


@asynccontextmanager
async def receive(request: Request, max_file_bytes: int) -> AsyncIterator[Upload]:
    """The upload in the request's body, for as long as the block lasts.

    Raises TooLargeError as soon as the limit is passed, InvalidRequestError for anything but one file with the fields
    that OpenAI's API has, ClientDisconnect when the client goes away.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidRequestError("an upload is sent as multipart/form-data")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_file_bytes + FRAMING_BYTES:
        raise _too_large(max_file_bytes)
    parser = _WholeForm(
        request.headers, _bounded(request, max_file_bytes), max_files=1, max_fields=8, max_part_size=4096
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequestError(f"the multipart form cannot be read: {error.message}") from None
    try:
        yield _check(form, max_file_bytes)
    finally:
        await form.close()


class _WholeForm(MultiPartParser):
    """Starlette takes a form that breaks off for one that holds less; here it is refused."""

    _ended = False

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("it ends before its closing boundary")
        return form


async def _bounded(request: Request, max_file_bytes: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_file_bytes + FRAMING_BYTES:
            raise _too_large(max_file_bytes)
        yield chunk


def _too_large(max_file_bytes: int) -> TooLargeError:
    return TooLargeError(f"the file is larger than the limit of {max_file_bytes} bytes", param="file")


def _check(form: FormData, max_file_bytes: int) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidRequestError("'file' is missing", code="missing_required_parameter", param="file")
    if (file.size or 0) > max_file_bytes:
        raise _too_large(max_file_bytes)
    known = {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown := set(form) - known:
        name = min(unknown)
        raise InvalidRequestError(
            f"Unrecognized request argument supplied: {name}", code="unknown_parameter", param=name
        )
    purpose = form.get("purpose")
    if purpose is None:
        raise InvalidRequestError("'purpose' is missing", code="missing_required_parameter", param="purpose")
    if purpose != "batch":
        raise InvalidRequestError("purpose must be 'batch'", code="invalid_value", param="purpose")
    return Upload(file.filename or "", file.file, _expiry(form))


def _expiry(form: FormData) -> timedelta | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequestError(
            "expires_after[anchor] must be 'created_at'", code="invalid_value", param="expires_after[anchor]"
        )
    digits = seconds if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 10 else "0"
    if not LEAST_EXPIRY_S <= int(digits) <= MOST_EXPIRY_S:
        raise InvalidRequestError(
            f"expires_after[seconds] is a whole number from {LEAST_EXPIRY_S} to {MOST_EXPIRY_S}",
            code="invalid_value",
            param="expires_after[seconds]",
        )
    return timedelta(seconds=int(digits))
