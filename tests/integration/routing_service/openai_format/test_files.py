"""What uploads take up: a limit for each key, and what expiry and `routebatch prune` free."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import openai
import pytest
from click.testing import CliRunner, Result
from openai import OpenAI
from sqlalchemy import text

from cli.main import main
from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from tests.support.api_server import Api, running_api
from tests.support.factories import make_batch, make_file, make_key, make_settings
from tests.support.fakes import FakePublisher

SETTINGS = make_settings(limits={"max_stored_bytes_per_key": 1000})


@pytest.fixture
def small(database: Database) -> Iterator[Api]:
    """An API with room for a thousand bytes a key."""
    with running_api(SETTINGS, database) as api:
        yield api


def upload(client: OpenAI, size: int) -> str:
    return client.files.create(file=("a.jsonl", b"x" * size), purpose="batch").id


def refused(client: OpenAI, size: int) -> bool:
    try:
        upload(client, size)
    except openai.APIStatusError as error:
        return (error.status_code, error.code, error.param) == (413, "storage_limit_exceeded", "file")
    return False


def content_left(database: Database) -> set[str]:
    with database.transaction() as session:
        return set(session.scalars(text("select file_id from file_chunks")))


def _age(database: Database, file_id: str, column: str, interval: str) -> None:
    with database.transaction() as session:
        query = text(f"update files set {column} = now() - cast(:i as interval) where id = :id")
        session.execute(query, {"i": interval, "id": file_id})


def test_a_keys_uploads_have_a_limit_together_and_what_is_deleted_or_expired_is_free(
    small: Api, database: Database
) -> None:
    with small.client() as client, small.client(small.new_key()[1]) as other:
        first = upload(client, 600)
        assert refused(client, 401)
        second = upload(client, 400)
        assert refused(client, 1)
        assert not refused(other, 1000)
        client.files.delete(first)
        assert not refused(client, 600)
        _age(database, second, "expires_at", "1 second")
        assert not refused(client, 400)
        assert refused(client, 1)


def test_uploads_beside_one_another_do_not_pass_the_limit_together(small: Api, database: Database) -> None:
    outcomes: list[bool] = []

    def run() -> None:
        with small.client() as client:
            outcomes.append(refused(client, 300))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 3 + [True] * 3
    assert len(content_left(database)) == 3


def test_the_sweep_removes_the_content_of_expired_files_unless_a_batch_is_to_read_it(database: Database) -> None:
    with database.transaction() as session:
        key = make_key(session)
        files = [make_file(session, key, b"x") for _ in range(3)]
        kept, expired, awaited = (file.id for file in files)
        make_batch(session, key, files[2])
    for file_id in (expired, awaited):
        _age(database, file_id, "expires_at", "1 second")
    sweep(database, SETTINGS, FakePublisher())
    assert content_left(database) == {kept, awaited}
    with database.transaction() as session:
        session.execute(text("update batches set state = 'failed', failed_at = now()"))
    sweep(database, SETTINGS, FakePublisher())
    assert content_left(database) == {kept}


def prune(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["prune", *arguments])


def test_prune_removes_what_is_old_and_says_before_what_it_would(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    with database.transaction() as session:
        key = make_key(session)
        young, old, older = (make_file(session, key, b"x" * 500_000).id for _ in range(3))
    _age(database, old, "created_at", "31 days")
    _age(database, older, "created_at", "90 days")
    counted = json.loads(prune("--older-than", "30d", "--dry-run", "--json").stdout)
    assert counted == {"files": 2, "bytes": 1_000_000, "dry_run": True}
    assert content_left(database) == {young, old, older}
    assert prune("--older-than", "8w").stdout == "1 files, 0.5 MB are removed\n"
    assert prune("--older-than", "720h").stdout == "1 files, 0.5 MB are removed\n"
    assert content_left(database) == {young}


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "999999d", "30 d"])
def test_a_wrong_age_is_named(age: str) -> None:
    result = prune("--older-than", age)
    assert result.exit_code == 2
    assert "is no age" in result.stderr
