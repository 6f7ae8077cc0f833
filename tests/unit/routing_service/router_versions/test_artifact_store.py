"""The artifact store: what is put comes out as it was, or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError, ConfigurationError
from routing_service.router_versions import artifact_store
from routing_service.router_versions.artifact_store import FILES, METADATA, TENSORS, ArtifactStore, content_hash
from routing_service.routers import artifact
from tests.support.factories import make_settings


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")


def saved(directory: Path, seed: int = 0) -> Path:
    artifact.write(directory, "gain", {"a": np.arange(6.0) + seed}, {"seed": seed})
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_is_put_is_fetched_as_it_was(store: ArtifactStore, tmp_path: Path) -> None:
    router = saved(tmp_path / "router")
    sha256 = store.put(router)
    fetched = store.fetch(sha256)
    assert fetched == tmp_path / "cache" / sha256
    assert contents(fetched) == contents(router)
    assert contents(tmp_path / "store" / sha256) == contents(router)


def test_its_name_is_the_hash_of_what_sha256sum_prints(store: ArtifactStore, tmp_path: Path) -> None:
    router = saved(tmp_path / "router")
    sums = subprocess.run(["sha256sum", *FILES], cwd=router, check=True, capture_output=True).stdout
    assert store.put(router) == hashlib.sha256(sums).hexdigest()


def test_the_same_content_twice_is_one_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    names = {store.put(saved(tmp_path / name)) for name in ("a", "b")}
    other = store.put(saved(tmp_path / "c", seed=1))
    assert {path.name for path in (tmp_path / "store").iterdir()} == {*names, other}
    assert len(names) == 1


def test_only_the_files_of_an_artifact_are_taken(store: ArtifactStore, tmp_path: Path) -> None:
    router = saved(tmp_path / "router")
    (router / "evil.py").write_text("raise SystemExit")
    (router / "more").mkdir()
    assert sorted(path.name for path in store.fetch(store.put(router)).iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_artifact_is_refused(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    router = saved(tmp_path / "router")
    (router / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        store.put(router)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("stop_at", [1, 2])
def test_an_interrupted_put_leaves_nothing_that_counts(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    router, calls = saved(tmp_path / "router"), 0
    put_file = store._fs.put_file

    def interrupted(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls < stop_at:
            put_file(source, target)
            return
        Path(target).write_bytes(Path(source).read_bytes()[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store._fs, "put_file", interrupted)
        with pytest.raises(ArtifactError, match="No space left on device"):
            store.put(router)
    sha256 = content_hash(router)
    with pytest.raises(ArtifactError, match="has no artifact"):
        store.fetch(sha256)
    assert METADATA not in contents(tmp_path / "store" / sha256)
    assert store.put(router) == sha256
    assert contents(store.fetch(sha256)) == contents(router)


def test_a_damaged_artifact_is_not_fetched_and_put_again_mends_it(store: ArtifactStore, tmp_path: Path) -> None:
    router = saved(tmp_path / "router")
    sha256 = store.put(router)
    damage(tmp_path / "store" / sha256 / TENSORS)
    with pytest.raises(ArtifactError, match="holds a damaged artifact"):
        store.fetch(sha256)
    assert list((tmp_path / "cache").iterdir()) == []
    store.put(router)
    assert contents(store.fetch(sha256)) == contents(router)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_cache_is_fetched_anew(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    router = saved(tmp_path / "router")
    sha256 = store.put(router)
    damage(store.fetch(sha256) / name)
    assert contents(store.fetch(sha256)) == contents(router)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [sha256]


def test_what_is_cached_needs_no_store(store: ArtifactStore, tmp_path: Path) -> None:
    sha256 = store.put(saved(tmp_path / "router"))
    store.fetch(sha256)
    elsewhere = ArtifactStore(str(tmp_path / "nowhere"), tmp_path / "cache")
    assert elsewhere.fetch(sha256).name == sha256


def test_several_may_put_and_fetch_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    router = saved(tmp_path / "router")
    sha256 = store.put(router)
    together, fetched, errors = threading.Barrier(6), list[Path](), list[Exception]()

    def run(number: int) -> None:
        mine = ArtifactStore(str(tmp_path / "store"), tmp_path / "cache")
        together.wait()
        try:
            if number % 3 == 0:
                mine.put(router)
            fetched.append(mine.fetch(sha256))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {contents(path)[METADATA] for path in fetched} == {contents(router)[METADATA]}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [sha256]
    assert contents(tmp_path / "store" / sha256) == contents(router)


@pytest.mark.parametrize("name", ["", "../router", "/etc", "a" * 63, "A" * 64, "a" * 64 + "/..", "a" * 64 + "\n"])
def test_a_name_that_is_no_hash_is_refused(store: ArtifactStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="no SHA-256"):
        store.fetch(name)
    assert not (tmp_path / "cache").exists()


def test_the_cache_keeps_what_was_used_last(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_store, "KEPT", 2)
    names = [store.put(saved(tmp_path / str(n), seed=n)) for n in range(3)]
    abandoned, fresh = tmp_path / "cache" / ".old", tmp_path / "cache" / ".new"
    for age, name in zip((30, 20, 10), names, strict=True):
        older = store.fetch(name).stat().st_mtime - age
        os.utime(tmp_path / "cache" / name, (older, older))
    for directory in (abandoned, fresh):
        directory.mkdir()
    os.utime(abandoned, (0, 0))
    store.fetch(names[0])
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {names[0], names[2], fresh.name}


def test_a_store_of_objects_does_the_same(tmp_path: Path) -> None:
    store = ArtifactStore("memory://routers", tmp_path / "cache")
    router = saved(tmp_path / "router")
    assert contents(store.fetch(store.put(router))) == contents(router)


def test_the_configured_store_is_used(tmp_path: Path) -> None:
    settings = make_settings(artifact_url=f"file://{tmp_path}/store", artifact_cache=tmp_path / "cache")
    sha256 = ArtifactStore.of(settings).put(saved(tmp_path / "router"))
    assert (tmp_path / "store" / sha256 / METADATA).is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "name a directory or an s3:// address in ROUTEBATCH_ARTIFACT_URL"),
        ({"artifact_url": "nosuch://user:hunter2@bucket"}, "nosuch://bucket cannot be used"),
    ],
)
def test_a_store_that_cannot_be_is_named_without_its_password(changes: dict[str, Any], message: str) -> None:
    settings = make_settings(**changes)
    with pytest.raises(ConfigurationError, match=message) as raised:
        ArtifactStore.of(settings)
    assert "hunter2" not in str(raised.value) + repr(settings)


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
