"""The HTTP API as client commands use it: find the server and the key, call, and raise one kind of error.

`connected` gives an `Api` for as long as a block lasts. Batches and plans are handed on as plain dictionaries, just as
the API sent them. Nothing else in `cli` imports openai, and this module only once a client is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote, urlsplit

import click

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

Batch = dict[str, Any]
Plan = dict[str, Any]

TERMINAL = ("completed", "failed", "expired", "cancelled")  # the states that a batch ends in
RETRIES = 4
PAGE = 100  # the most batches a page may hold
HOW_TO_CONNECT = (
    "start a stack with `routebatch up`, or give --url and --api-key (or ROUTEBATCH_URL, ROUTEBATCH_API_KEY)"
)


class ApiError(click.ClickException):
    """What the API refused, or why it could not be asked. `transient`: asking again may help."""

    def __init__(self, message: str, *, status: int | None = None, transient: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.transient = transient


@contextmanager
def connected(url: str | None, key: str | None) -> Iterator[Api]:
    """An Api for as long as the block lasts."""
    api = Api(find_address(url, key))
    try:
        yield api
    finally:
        api.close()


class Api:
    """A connection to the API. Every method raises ApiError and nothing else."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._client = _open(address)

    def upload(self, stream: BinaryIO, name: str) -> str:
        """Upload a batch file, read piece by piece; returns its id."""
        with self._translated():
            return self._client.files.create(file=(name, stream), purpose="batch").id

    def delete_file(self, file_id: str) -> None:
        with self._translated():
            self._client.files.delete(file_id)

    def create(
        self, file_id: str, window: str, routing: dict[str, Any], idempotency_key: str, *, preview: bool = False
    ) -> Batch:
        """A batch of an uploaded file; `preview`: one that shows its plan and waits to be approved."""
        body: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": window}
        body |= {"input_file_id": file_id} | ({"routing": routing} if routing else {})
        return self._post("/batches/plan" if preview else "/batches", body, {"Idempotency-Key": idempotency_key})

    def batch(self, batch_id: str) -> Batch:
        with self._translated():
            return self._client.batches.retrieve(batch_id).to_dict()

    def cancel(self, batch_id: str) -> Batch:
        with self._translated():
            return self._client.batches.cancel(batch_id).to_dict()

    def go_on(self, batch_id: str, action: str, budget_usd: str | None, idempotency_key: str) -> Batch:
        """Top up, retry or approve a batch (`action`: top_up, retry, approve); returns the batch that has the money."""
        body = {} if budget_usd is None else {"budget_usd": budget_usd}
        return self._post(_path(batch_id, action), body, {"Idempotency-Key": idempotency_key})

    def plan(self, batch_id: str) -> Plan:
        """What a plan shows, or how far it is."""
        with self._translated():
            return cast(Plan, self._client.get(_path(batch_id, "plan"), cast_to=cast(Any, object)))

    def pause(self, batch_id: str) -> Batch:
        return self._post(_path(batch_id, "pause"), {}, {})

    def resume(self, batch_id: str) -> Batch:
        return self._post(_path(batch_id, "resume"), {}, {})

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Batch:
        """What routing adds to OpenAI's API: the SDK has no method for it."""
        from openai.types import Batch as BatchObject

        with self._translated():
            return self._client.post(path, cast_to=BatchObject, body=body, options={"headers": headers}).to_dict()

    def feedback(self, said: dict[str, Any]) -> dict[str, Any]:
        """Say how good an answer was; returns what was made of it."""
        with self._translated():
            return cast(dict[str, Any], self._client.post("/feedback", cast_to=object, body=said))

    def batches(self, limit: int) -> list[Batch]:
        """The newest batches, page by page."""
        with self._translated():
            pages = self._client.batches.list(limit=min(limit, PAGE))
            return [batch.to_dict() for batch in islice(pages, limit)]

    def download(self, file_id: str, stream: BinaryIO) -> int:
        """Write a file's content to `stream` piece by piece; returns its bytes, which must be as many as announced."""
        with self._translated():
            announced = self._client.files.retrieve(file_id).bytes
            written = 0
            with self._client.files.with_streaming_response.content(file_id) as response:
                for piece in response.iter_bytes():
                    stream.write(piece)
                    written += len(piece)
        if written != announced:
            raise ApiError(f"file {file_id} arrived with {written} of its {announced} bytes; try again", transient=True)
        return written

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2
        import openai

        url = self._address.url
        try:
            yield
        except openai.APIStatusError as error:
            raise _refused(error) from error
        except openai.APIConnectionError as error:
            reason = error.__cause__ or error
            raise ApiError(f"cannot reach {url}: {reason}; is the server running?", transient=True) from error
        except httpx2.HTTPError as error:
            raise ApiError(f"the connection to {url} broke: {error}", transient=True) from error
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise ApiError(f"{url} gave an answer that is not the API's: {error}") from error


def _path(batch_id: str, action: str) -> str:
    return f"/batches/{quote(batch_id, safe='')}/{action}"


@dataclass(frozen=True, slots=True)
class Address:
    url: str  # ends in /v1
    key: str = field(repr=False)


def find_address(url: str | None, key: str | None) -> Address:
    """What was given, completed from the default state directory's stack.json.

    The stack's key is only ever sent to the stack's own address.
    """
    stack = {} if url and key else _stack()
    if url is None:
        url = stack.get("api_url")
    if not url:
        raise click.ClickException(f"no server: {HOW_TO_CONNECT}")
    address = _with_version(url)
    if key is None and stack.get("api_url") and _with_version(stack["api_url"]) == address:
        key = stack.get("api_key")
    if not key:
        raise click.ClickException(f"no API key for {url}: give --api-key or set ROUTEBATCH_API_KEY")
    return Address(address, key)


def _with_version(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"{url!r} is no address of a server: write http://HOST:PORT or https://HOST")
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _stack() -> dict[str, str]:
    from deploy.layout import StateDir

    return StateDir.at().read_stack()


def _open(address: Address) -> OpenAI:
    import openai

    # a proxy named by the environment cannot reach this machine's own loopback
    http = openai.DefaultHttpxClient(trust_env=not _is_loopback(address.url))
    return openai.OpenAI(base_url=address.url, api_key=address.key, max_retries=RETRIES, http_client=http)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(error: APIStatusError) -> ApiError:
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or f"the server answered {error.status_code} without a reason")
    if code := body.get("code"):
        message += f" ({code})"
    if error.status_code == 401:
        message = f"the API key was refused: {message}"
    return ApiError(message, status=error.status_code, transient=error.status_code >= 500)
