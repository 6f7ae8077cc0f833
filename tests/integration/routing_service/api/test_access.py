"""Who may see what, how errors look on the wire, and whether the process says that it can serve."""

from __future__ import annotations

import http.client
import json
import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import create_engine, text

from routing_service.db import Database
from routing_service.openai_format.keys import revoke_key
from tests.support.api_server import Api, running_api
from tests.support.client import create, upload
from tests.support.factories import make_settings


def request(
    api: Api, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(api.url.removeprefix("http://"), timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Authorization": f"Bearer {api.key}"} | names)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    actual = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, actual, json.loads(content) if content else None


def test_what_belongs_to_another_key_is_404(api: Api, client: OpenAI) -> None:
    file_id = upload(client)
    batch_id = create(client, file_id).id
    with api.client(api.new_key()[1]) as other:
        calls: list[Callable[[], Any]] = [
            lambda: other.files.retrieve(file_id),
            lambda: other.files.content(file_id),
            lambda: other.files.delete(file_id),
            lambda: other.batches.retrieve(batch_id),
            lambda: other.batches.cancel(batch_id),
            lambda: create(other, file_id),
            lambda: other.files.list(after=file_id),
            lambda: other.batches.list(after=batch_id),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError):
                call()
        assert other.files.list().data == []
        assert other.batches.list().data == []
    assert client.batches.retrieve(batch_id).status == "validating"


def test_a_revoked_key_is_refused_from_the_next_request_on(api: Api) -> None:
    key_id, secret = api.new_key()
    with api.client(secret) as client:
        assert client.files.list().data == []
        with api.database.transaction() as session:
            revoke_key(session, key_id)
        with pytest.raises(openai.AuthenticationError) as caught:
            client.files.list()
        assert caught.value.code == "invalid_api_key"


def test_without_a_valid_key_everything_under_v1_is_401(api: Api) -> None:
    for header in ("", "Bearer", "Bearer ", "Basic abc", "Bearer rb-wrong", "Bearer \xff\xfe"):
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/batches"), ("GET", "/v1/models")):
            status, headers, body = request(api, method, path, Authorization=header)
            assert status == 401, header
            assert body["error"]["type"] == "authentication_error"
            assert headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("status", [400, 404, 405, 413])
def test_every_error_is_openais_error_object_with_a_request_id(api: Api, status: int) -> None:
    wrong: dict[int, list[tuple[str, str, bytes | None]]] = {
        404: [
            ("GET", "/v1/nothing", None),
            ("GET", "/v1/files/", None),
            ("GET", "/v1/files/file-unknown", None),
            ("GET", "/v1/batches/..%2f..%2fx", None),
        ],
        405: [("PUT", "/v1/batches", b"{}")],
        400: [
            ("GET", "/v1/files/a%00b", None),
            ("GET", "/v1/files?limit=x", None),
            ("GET", "/v1/files?order=up", None),
            ("GET", "/v1/files?after=%00", None),
            ("POST", "/v1/batches", b""),
            ("POST", "/v1/batches", b"[1]"),
            ("POST", "/v1/batches", b'{"a": "\xff"}'),
            ("POST", "/v1/batches", b"[" * 100_000),
            ("POST", "/v1/batches", b'{"input_file_id": "f"}'),
        ],
        413: [("POST", "/v1/batches", b'{"a": "' + b"x" * 1_000_001 + b'"}')],
    }
    for method, path, body in wrong[status]:
        got, headers, content = request(api, method, path, body)
        assert got == status, path
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert content["error"]["message"]
        assert headers["x-request-id"]
        assert headers["content-type"] == "application/json"


def test_an_unexpected_error_is_a_500_that_tells_nothing_and_is_logged_under_its_id(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with api.database.transaction() as session:
        session.execute(text("drop table file_chunks; alter table files rename to no_files"))
    with caplog.at_level(logging.ERROR):
        status, headers, body = request(api, "GET", "/v1/files")
    assert status == 500
    assert body["error"] == {
        "message": "The server had an error. Try again.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert headers["x-request-id"] in caplog.text
    assert api.key not in caplog.text


def test_a_database_that_is_away_is_a_503_that_the_sdk_may_retry(api: Api, client: OpenAI, postgres_url: str) -> None:
    name = api.database.engine.url.database
    with closing(create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect()) as operator:
        operator.execute(text(f"alter database {name} with allow_connections false"))
        operator.execute(
            text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": name}
        )
        with pytest.raises(openai.InternalServerError) as caught:
            client.files.list()
        assert (caught.value.status_code, caught.value.code) == (503, "database_unavailable")
        assert request(api, "GET", "/readyz")[0] == 503
        operator.execute(text(f"alter database {name} with allow_connections true"))
    assert client.files.list().data == []
    operator.engine.dispose()


def test_the_models_are_the_alias_and_the_configured_names(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["routebatch-auto", "strong", "weak"]
    assert client.models.retrieve("weak").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")


def test_health_needs_no_key_and_readiness_needs_the_schema(api: Api) -> None:
    assert request(api, "GET", "/healthz", Authorization="")[0] == 200
    status, _, body = request(api, "GET", "/readyz", Authorization="")
    assert (status, body["status"], body["database"]) == (200, "ready", "up")
    with api.database.transaction() as session:
        session.execute(text("drop table alembic_version"))
    status, _, body = request(api, "GET", "/readyz")
    assert (status, body["status"]) == (503, "unavailable")
    assert request(api, "GET", "/healthz")[0] == 200


def test_a_broker_that_is_away_is_reported_and_does_not_stop_the_api(database: Database) -> None:
    settings = make_settings(broker_url="redis+socket:///nowhere/valkey.sock?virtual_host=0")
    with running_api(settings, database) as api:
        status, _, body = request(api, "GET", "/readyz")
    assert (status, body["broker"]) == (200, "down")
