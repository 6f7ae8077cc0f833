"""Fixtures of integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from routing_service.db import Database
from routing_service.settings import Settings
from tests.support.api_server import Api, running_api


@pytest.fixture
def api(settings: Settings, database: Database) -> Iterator[Api]:
    """The HTTP API over an empty database, with one key."""
    with running_api(settings, database) as api:
        yield api


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    """The stock SDK with that key; it does not retry."""
    with api.client() as client:
        yield client
