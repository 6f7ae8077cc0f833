"""Files over HTTP, as the stock SDK uses them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from routing_service.db import Database
from tests.support.api_server import Api, running_api
from tests.support.client import LINES, upload
from tests.support.factories import make_settings


def test_an_uploaded_file_is_shown_and_comes_back_byte_for_byte(client: OpenAI) -> None:
    content = bytes(range(256)) * 5000  # more than four chunks, no text at all
    file = client.files.create(file=("b.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "b.jsonl", "batch")
    assert file.status == "processed"
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content


def test_a_byte_order_mark_is_kept(client: OpenAI) -> None:
    assert client.files.content(upload(client, b"\xef\xbb\xbf" + LINES)).content.startswith(b"\xef\xbb\xbf")


def test_an_empty_file_is_accepted_and_fails_when_a_batch_reads_it(client: OpenAI) -> None:
    file_id = upload(client, b"")
    assert client.files.retrieve(file_id).bytes == 0
    assert client.files.content(file_id).read() == b""


def test_files_are_listed_newest_first_and_the_sdk_pages_through_them(client: OpenAI) -> None:
    ids = [upload(client, name=f"{i}.jsonl") for i in range(5)]
    assert [f.id for f in client.files.list(limit=2)] == ids[::-1]
    assert [f.id for f in client.files.list(limit=2, order="asc")] == ids
    page = client.files.list(limit=2)
    assert [f.id for f in page.data] == ids[:2:-1]
    assert page.has_more


def test_paging_goes_on_after_a_file_that_was_deleted_meanwhile(client: OpenAI) -> None:
    ids = [upload(client) for _ in range(3)]
    client.files.delete(ids[2])
    assert [f.id for f in client.files.list(after=ids[2])] == [ids[1], ids[0]]


def test_files_are_filtered_by_purpose(client: OpenAI) -> None:
    file_id = upload(client)
    assert [f.id for f in client.files.list(purpose="batch")] == [file_id]
    assert client.files.list(purpose="batch_output").data == []
    assert client.files.list(purpose="vision").data == []


def test_a_deleted_file_is_gone_with_its_bytes(client: OpenAI, database: Database) -> None:
    file_id = upload(client)
    deleted = client.files.delete(file_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file_id)
    assert client.files.list().data == []
    with database.transaction() as session:
        assert session.scalar(text("select count(*) from file_chunks")) == 0


def test_expiry_is_shown_and_an_expired_file_is_gone(client: OpenAI, database: Database) -> None:
    file = client.files.create(
        file=("a", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600
    with database.transaction() as session:
        session.execute(text("update files set expires_at = now() - interval '1 second'"))
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert client.files.list().data == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({}, "purpose"),
        ({"purpose": "batch", "color": "red"}, "color"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, "seconds"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1e5"}, "seconds"),
    ],
)
def test_a_wrong_field_of_an_upload_is_named(api: Api, fields: dict[str, str], param: str) -> None:
    answer = post(api, data=fields, files={"file": ("a.jsonl", LINES)})
    assert answer.status_code == 400
    assert param in answer.json()["error"]["param"]
    assert stored(api) == 0


def test_what_is_no_upload_is_refused(api: Api) -> None:
    assert post(api, json={"purpose": "batch"}).status_code == 400
    assert post(api, data={"purpose": "batch", "file": "text"}, files={"x": b""}).status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for body in (b"", b"garbage", b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'):
        answer = post(api, content=body, headers=headers)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["message"]
    assert stored(api) == 0


def test_a_file_name_loses_its_path_and_control_characters(api: Api) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data;'
        b' name="file"; filename="../../etc/na\x00me\x1b.jsonl"\r\n\r\nx\r\n--b--\r\n'
    )
    answer = post(api, content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.json()["filename"] == "name.jsonl"


@pytest.mark.parametrize("declared", [True, False])
def test_a_file_over_the_limit_is_413_and_leaves_nothing(database: Database, declared: bool) -> None:
    """A body of a declared length is refused by it, a chunked one while it is read; the client sees the answer."""
    settings = make_settings(limits={"max_file_bytes": 100_000})
    with running_api(settings, database) as api:
        body = form(b"x" * 4_000_000)
        answer = post(api, content=body if declared else iter([body]), headers=FORM)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert answer.headers["x-request-id"]
        assert post(api, content=form(b"x" * 100_001), headers=FORM).status_code == 413
        assert stored(api) == 0
        assert post(api, content=form(b"x" * 100_000), headers=FORM).status_code == 200


def test_the_sdk_sees_too_large_as_an_api_status_error(database: Database) -> None:
    with running_api(make_settings(limits={"max_file_bytes": 10}), database) as api, api.client() as client:
        with pytest.raises(openai.APIStatusError) as caught:
            upload(client, b"x" * 2_000_000)
        assert caught.value.status_code == 413


def test_an_upload_without_a_valid_key_is_401_though_its_body_was_not_read(api: Api) -> None:
    with api.client("rb-wrong") as client, pytest.raises(openai.AuthenticationError):
        upload(client, b"x" * 2_000_000)
    assert stored(api) == 0


def test_an_interrupted_upload_leaves_nothing(api: Api) -> None:
    body = form(b"x" * 1_000_000)
    host = api.url.removeprefix("http://")
    with socket.create_connection(tuple(host.split(":"))) as connection:  # type: ignore[arg-type]
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api.key}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body[:500_000])
    with api.client() as client:
        assert client.files.list().data == []
    assert stored(api) == 0


def test_uploads_beside_one_another_do_not_mix(api: Api) -> None:
    contents = [bytes([65 + i]) * 700_000 for i in range(6)]
    ids: dict[int, str] = {}

    def send(number: int) -> None:
        with api.client() as client:
            ids[number] = upload(client, contents[number])

    threads = [threading.Thread(target=send, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with api.client() as client:
        assert [client.files.content(ids[i]).read() for i in range(6)] == contents


def test_content_is_given_whatever_the_client_accepts(api: Api, client: OpenAI) -> None:
    file_id = upload(client)
    for accept in ("application/binary", "image/png", "nonsense"):
        connection = http.client.HTTPConnection(api.url.removeprefix("http://"))
        headers = {"Authorization": f"Bearer {api.key}", "Accept": accept}
        connection.request("GET", f"/v1/files/{file_id}/content", headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, LINES)
        connection.close()


FORM = {"content-type": "multipart/form-data; boundary=b"}


def form(content: bytes) -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content + b"\r\n--b--\r\n"
    )


def post(api: Api, **more: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {api.key}"} | more.pop("headers", {})
    with httpx2.Client(timeout=30) as http:
        answer = http.post(f"{api.url}/v1/files", headers=headers, **more)
        answer.read()
    assert "error" in json.loads(answer.content) or answer.status_code == 200
    return answer


def stored(api: Api) -> int:
    with api.database.transaction() as session:
        query = text("select (select count(*) from files) + (select count(*) from file_chunks)")
        return int(session.scalars(query).one())
