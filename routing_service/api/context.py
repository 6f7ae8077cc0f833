"""What routes are handed: the service, whose key this is, and ids and bodies that are safe to use."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Path, Query, Request
from pydantic import BaseModel, ValidationError

from routing_service.errors import AuthenticationError, InvalidRequestError, TooLargeError
from routing_service.openai_format import keys
from routing_service.service import Service

MAX_JSON_BYTES = 1_000_000
Model = TypeVar("Model", bound=BaseModel)


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Use = Annotated[Service, Depends(_service)]


def _current_key(request: Request, service: Use) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise AuthenticationError(
            "You didn't provide an API key. Send it in a header: Authorization: Bearer YOUR_KEY.",
            code="missing_api_key",
        )
    with service.database.transaction() as session:
        return keys.authenticate(session, secret.strip()).id


KeyId = Annotated[str, Depends(_current_key)]
"""The id of the API key that the request carries; nothing is reached without one."""

ID_PATTERN = r"^[A-Za-z0-9_-]{1,100}$"
ObjectId = Annotated[str, Path(pattern=ID_PATTERN)]
After = Annotated[str | None, Query(pattern=ID_PATTERN)]


async def read_json(request: Request, model: type[Model], *, optional: bool = False) -> Model:
    """The request's JSON body as `model`; no body at all is an empty object where it is optional.

    Raises InvalidRequestError or TooLargeError.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise TooLargeError(f"the request's body is larger than {MAX_JSON_BYTES} bytes")
    return _validate({} if optional and not body else _parse(body), model)


def _parse(body: bytes) -> Any:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(content, dict):
        raise InvalidRequestError("the request's body is a JSON object")
    if re.search(rb"\\u0000", body):
        raise InvalidRequestError("the request's body holds a NUL character (\\u0000)")
    return content


def _validate(content: Any, model: type[Model]) -> Model:
    try:
        return model.model_validate(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            message = f"Unrecognized request argument supplied: {param}"
            raise InvalidRequestError(message, code="unknown_parameter", param=param) from None
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        raise InvalidRequestError(f"{param}: {first['msg']}", code=code, param=param) from None
