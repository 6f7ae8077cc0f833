"""The real API on a free port, in a thread, over a real database: what API tests talk to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from openai import OpenAI

from routing_service.api.app import create_app
from routing_service.db import Database
from routing_service.openai_format.keys import create_key
from routing_service.service import Service
from routing_service.settings import Settings
from tests.support.fakes import FakePublisher

START_SECONDS = 30


@dataclass
class Api:
    """A running API. `key` is a valid API key, `key_id` its id."""

    url: str
    key: str
    key_id: str
    settings: Settings
    database: Database
    publisher: FakePublisher

    def client(self, key: str | None = None, *, retries: int = 0) -> OpenAI:
        """The stock SDK; close it, or use it in a `with` block."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=retries, timeout=30)

    def new_key(self, name: str = "other") -> tuple[str, str]:
        """(id, secret) of another key."""
        with self.database.transaction() as session:
            key, secret = create_key(session, name)
            return key.id, secret


@contextmanager
def running_api(settings: Settings, database: Database) -> Iterator[Api]:
    publisher = FakePublisher()
    app = create_app(Service(database, settings, publisher))
    with database.transaction() as session:
        key, secret = create_key(session, "test")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5, timeout_keep_alive=75)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _wait_until_started(server)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Api(url, secret, key.id, settings, database, publisher)
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)


def _wait_until_started(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if time.monotonic() > deadline:
            raise TimeoutError("the API did not start")
        time.sleep(0.005)
