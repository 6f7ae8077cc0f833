"""How answers are written: JSON, OpenAI's list envelope, OpenAI's error object; and which exception becomes which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from routing_service.errors import AuthenticationError, ClientError, ConflictError

RETRYABLE_CONFLICTS = ("batch_finalizing", "file_in_use")


def reply(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def list_reply(data: Sequence[Mapping[str, Any]], has_more: bool) -> Response:
    """OpenAI's page of a list; the client goes on after `last_id`."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return reply({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


def error_reply(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    error = {"message": message, "type": type, "param": param, "code": code}
    return reply({"error": error}, status, headers)


def install(app: FastAPI) -> None:
    """Let every exception that is expected leave the app as OpenAI's error object."""
    app.add_exception_handler(ClientError, _client_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    for kind in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(kind, _database_away)


def _client_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientError)
    headers = {}
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, ConflictError):
        headers["x-should-retry"] = "true" if error.code in RETRYABLE_CONFLICTS else "false"
    return error_reply(
        error.status, error.message, type=error.type, code=error.code, param=error.param, headers=headers
    )


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"Unknown request URL: {request.method} {request.url.path}",
        405: f"Method {request.method} is not allowed here",
    }.get(error.status_code, error.detail)
    return error_reply(error.status_code, message, headers=error.headers)


def _bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return error_reply(400, f"{name}: {first['msg']}", code="invalid_value", param=name)


def _database_away(request: Request, error: Exception) -> Response:
    return error_reply(
        503, "The database cannot be reached. Try again.", type="server_error", code="database_unavailable"
    )
