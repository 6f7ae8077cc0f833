"""A small stand-in for the API: it keeps what is uploaded and plays a batch's states one after the other."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "rb-test-key"
Json = dict[str, Any]


def batch(status: str, **changes: Any) -> Json:
    """A batch object as the API sends it."""
    ended = {"completed_at": 130} if status == "completed" else {}
    return {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": status,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 100,
        "completed_at": None,
        "request_counts": {"total": 4, "completed": 0, "failed": 0},
        "metadata": None,
        "routing": {"budget_usd": "5.00", "settled_usd": "0.0123", "reserved_usd": "0.00", "overrun_usd": "0.00"},
    } | (ended | changes)


def completed(**changes: Any) -> Json:
    counts = {"total": 4, "completed": 4, "failed": 0}
    return batch("completed", output_file_id="file-out", request_counts=counts, **changes)


@dataclass
class FakeApi:
    """What the stand-in answers, and what it was asked."""

    states: list[Json] = field(default_factory=lambda: [batch("in_progress"), completed()])
    contents: dict[str, bytes] = field(default_factory=lambda: {"file-out": b'{"custom_id":"a"}\n'})
    listed: list[Json] = field(default_factory=list)
    refusal: tuple[int, Json] | None = None  # of creating a batch
    failures: list[int] = field(default_factory=list)  # HTTP statuses for the next polls
    announced: int | None = None  # a wrong size for every file
    url: str = ""
    uploads: list[bytes] = field(default_factory=list)
    created: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    acted: list[str] = field(default_factory=list)  # paths of what batches were told
    made_at: list[str] = field(default_factory=list)  # the paths by which batches were made
    plans: list[Json] = field(default_factory=list)  # what a plan shows, one poll after the other

    @property
    def lines(self) -> list[Json]:
        """The lines of the last upload."""
        return [json.loads(line) for line in self.uploads[-1].splitlines()]

    def next_state(self) -> Json:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@contextmanager
def serving(api: FakeApi) -> Iterator[FakeApi]:
    class Handler(_Handler):
        fake = api

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeApi

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if match := re.fullmatch(r"/v1/files/([\w-]+)/content", self.path):
            self._send(200, self.fake.contents[match[1]])
        elif match := re.fullmatch(r"/v1/files/([\w-]+)", self.path):
            size = len(self.fake.contents[match[1]]) if self.fake.announced is None else self.fake.announced
            self._json(200, _file(match[1], size))
        elif match := re.fullmatch(r"/v1/batches\?limit=(\d+)(?:&after=(\w+))?", self.path):
            self._page(int(match[1]), match[2])
        elif self.path == "/v1/batches/batch_1/plan":
            self._json(200, self.fake.plans.pop(0) if len(self.fake.plans) > 1 else self.fake.plans[0])
        elif self.path == "/v1/batches/batch_1":
            if self.fake.failures:
                self._error(self.fake.failures.pop(0), "not now")
            else:
                self._json(200, self.fake.next_state())
        else:
            self._error(404, "No such batch.", "batch_not_found")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._allowed():
            return
        if self.path == "/v1/files":
            self.fake.uploads.append(body.split(b"\r\n\r\n")[-1].rpartition(b"\r\n--")[0])
            self._json(200, _file("file-1", len(self.fake.uploads[-1])))
        elif self.path in ("/v1/batches", "/v1/batches/plan"):
            self.fake.made_at.append(self.path)
            self.fake.created.append(json.loads(body))
            self.fake.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.fake.refusal:
                self._json(*self.fake.refusal)
            else:
                self._json(200, batch("validating"))
        else:
            self.fake.acted.append(self.path)
            self._json(200, batch("cancelling"))

    def do_DELETE(self) -> None:
        self.fake.deleted.append(self.path.rpartition("/")[2])
        self._json(200, {"id": self.fake.deleted[-1], "object": "file", "deleted": True})

    def _allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {KEY}":
            return True
        self._error(401, "Unknown API key.", "invalid_api_key")
        return False

    def _page(self, limit: int, after: str | None) -> None:
        ids = [actual["id"] for actual in self.fake.listed]
        start = ids.index(after) + 1 if after else 0
        data = self.fake.listed[start : start + limit]
        more = start + limit < len(ids)
        self._json(200, {"object": "list", "data": data, "has_more": more})

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        self._json(status, {"error": {"message": message, "type": "error", "param": None, "code": code}})

    def _json(self, status: int, value: Json) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _file(file_id: str, size: int) -> Json:
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": 1,
        "filename": "a.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
