"""The cache of vectors: nothing is encoded twice, nothing fails for it, and it does not grow without bound."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from routing_service.embedding.base import Floats, NotFiniteError, Progress, unit
from routing_service.embedding.cache import CachedEncoder, VectorCache, default_directory

SIZE = 16
ROOM = 100_000_000


class CountingEncoder:
    """Vectors drawn from the text; it keeps what it was asked for."""

    spec = "counting@8"
    dimensions = SIZE
    shortened = 0

    def __init__(self, identity: str = "one") -> None:
        self.identity = identity
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        self.asked += texts
        self.shortened += sum(len(text) > 1000 for text in texts)
        for row, text in enumerate(texts):
            if text == "nan":
                raise NotFiniteError(self.spec, row)
        if progress:
            progress(len(texts))
        rows = [
            np.random.default_rng(list(map(ord, self.identity + text[:99]))).standard_normal(SIZE) for text in texts
        ]
        return unit(np.array(rows, np.float32).reshape(-1, SIZE))


def cached(directory: Path, encoder: CountingEncoder, max_bytes: int = ROOM) -> CachedEncoder:
    return CachedEncoder(encoder, VectorCache(directory, max_bytes))


def test_a_text_is_encoded_once_over_calls_and_processes(tmp_path: Path) -> None:
    first, second = CountingEncoder(), CountingEncoder()
    texts = [f"text {n}" for n in range(1200)]
    vectors = cached(tmp_path, first).encode(texts)
    again = cached(tmp_path, second).encode([*texts, "new"])
    assert len(first.asked) == 1200
    assert second.asked == ["new"]
    assert (again[:-1] == vectors).all()


def test_a_text_that_comes_twice_in_a_call_is_encoded_once(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    vectors = cached(tmp_path, encoder).encode(["a", "b", "a", "a"])
    assert encoder.asked == ["a", "b"]
    assert (vectors[[2, 3]] == vectors[0]).all()


def test_vectors_are_the_same_with_a_cache_and_without(tmp_path: Path) -> None:
    with_cache, without = cached(tmp_path, CountingEncoder()), cached(tmp_path / "none", CountingEncoder(), 0)
    texts = [f"text {n}" for n in range(50)]
    fresh = with_cache.encode(texts)
    assert (fresh == without.encode(texts)).all()
    assert (fresh == with_cache.encode(texts)).all()
    assert fresh == pytest.approx(CountingEncoder().encode(texts), abs=1e-3)
    assert np.linalg.norm(fresh, axis=1) == pytest.approx(np.ones(50), abs=1e-6)
    assert not (tmp_path / "none").exists()


def test_encoders_do_not_see_each_others_vectors(tmp_path: Path) -> None:
    one, other = CountingEncoder("one"), CountingEncoder("other")
    vectors = cached(tmp_path, one).encode(["a"])
    assert not np.allclose(cached(tmp_path, other).encode(["a"]), vectors)
    assert other.asked == ["a"]


def test_any_unicode_is_a_key(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    made = cached(tmp_path, encoder)
    made.encode(["\ud800", "\ud801", "", "\0"])
    made.encode(["\ud801", "\0", "\ud800", ""])
    assert len(encoder.asked) == 4


def test_the_oldest_vectors_leave_a_full_cache(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    made = cached(tmp_path, encoder, 60_000)
    for start in range(0, 4000, 100):
        made.encode([f"text {n}" for n in range(start, start + 100)])
    with sqlite3.connect(tmp_path / "embeddings.sqlite3") as file:
        (count,) = file.execute("select count(*) from vectors").fetchone()
    file.close()
    assert 100 <= count < 1500
    assert (tmp_path / "embeddings.sqlite3").stat().st_size < 120_000
    encoder.asked.clear()
    made.encode(["text 3999", "text 0"])
    assert encoder.asked == ["text 0"]


def test_a_cache_too_small_for_anything_is_no_error(tmp_path: Path) -> None:
    made = cached(tmp_path, CountingEncoder(), 1)
    assert (made.encode(["a", "b"]) == made.encode(["a", "b"])).all()


def test_a_damaged_file_costs_a_warning_and_no_vector(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "embeddings.sqlite3").write_bytes(b"this is no database" * 1000)
    encoder = CountingEncoder()
    made = cached(tmp_path, encoder)
    assert (made.encode(["a"]) == made.encode(["a"])).all()
    assert encoder.asked == ["a", "a"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(tmp_path) in caplog.text


def test_a_place_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert cached(tmp_path / "file" / "below", CountingEncoder()).encode(["a"]).any()
    assert "is not used" in caplog.text


def test_a_row_of_other_bytes_is_encoded_again(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    made = cached(tmp_path, encoder)
    vectors = made.encode(["a", "b"])
    with sqlite3.connect(tmp_path / "embeddings.sqlite3") as file:
        nan = np.full(SIZE, np.nan, np.float16).tobytes()
        file.execute("update vectors set vector = iif(key = (select min(key) from vectors), x'00', ?)", (nan,))
    file.close()
    assert (made.encode(["a", "b"]) == vectors).all()
    assert encoder.asked == ["a", "b", "a", "b"]


@pytest.mark.parametrize("value", [7, "x" * 2 * SIZE])
def test_a_row_of_no_bytes_is_encoded_again(tmp_path: Path, value: object) -> None:
    encoder = CountingEncoder()
    made = cached(tmp_path, encoder)
    vectors = made.encode(["a"])
    with sqlite3.connect(tmp_path / "embeddings.sqlite3") as file:
        file.execute("update vectors set vector = ?", (value,))
    file.close()
    assert (made.encode(["a"]) == vectors).all()
    assert encoder.asked == ["a", "a"]


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(name: str) -> None:
        made = cached(tmp_path, CountingEncoder())
        for n in range(10):
            made.encode([f"{name} {n} {m}" for m in range(20)])

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    encoder = CountingEncoder()
    cached(tmp_path, encoder).encode([f"{name} {n} {m}" for name in "abc" for n in range(10) for m in range(20)])
    assert encoder.asked == []


def test_progress_counts_every_text_once(tmp_path: Path) -> None:
    made = cached(tmp_path, CountingEncoder())
    made.encode(["a", "b"])
    seen: list[int] = []
    made.encode(["a", "c", "c", "d"], seen.append)
    assert sum(seen) == 4


def test_an_error_names_the_text_of_the_call_not_that_of_the_new_ones(tmp_path: Path) -> None:
    made = cached(tmp_path, CountingEncoder())
    made.encode(["a", "b"])
    with pytest.raises(NotFiniteError, match="text 4") as caught:
        made.encode(["a", "b", "a", "nan"])
    assert caught.value.row == 3


def test_texts_read_in_part_are_counted_in_one_line_without_their_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached(tmp_path, CountingEncoder()).encode(["secret " * 999 + str(n) for n in range(5000)])
    assert len(caplog.records) == 1
    assert "5000 texts" in caplog.text
    assert "secret" not in caplog.text


def test_a_user_without_a_home_has_a_cache_directory_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_directory().is_absolute()
