"""Static vectors: means of token vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from routing_service.embedding.base import Encoder
from routing_service.embedding.registry import make_encoder
from routing_service.errors import ConfigurationError
from routing_service.settings import Settings
from tests.support.routers.tiny_encoder import SIZE, SPECIAL, WORDS, texts, write_encoder


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_encoder(tmp_path)


@pytest.fixture
def static(directory: Path) -> Encoder:
    return make_encoder(Settings(), f"static:{directory}@16")


def test_a_vector_is_the_mean_of_centred_token_vectors(static: Encoder, directory: Path) -> None:
    rows = load_file(directory / "model.safetensors")["embeddings.word_embeddings.weight"]
    centred = rows - rows.mean(axis=0)
    wanted = sum(centred[len(SPECIAL) + WORDS.index(word)] for word in ("w3", "w3", "w5"))
    actual = static.encode(["w3 w5 w3"])[0]
    assert actual == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-5)


def test_a_text_has_the_same_vector_alone_and_among_others(static: Encoder) -> None:
    some = texts(1500, longest=10)
    vectors = static.encode(some)
    assert (vectors[[0, 1100, 1499]] == static.encode([some[0], some[1100], some[1499]])).all()
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(1500), abs=1e-5)


def test_an_empty_text_is_the_zero_vector(static: Encoder) -> None:
    vectors = static.encode(["", "w1", "\n"])
    assert not vectors[[0, 2]].any()
    assert vectors[1].any()
    assert static.encode([]).shape == (0, SIZE)


def test_long_texts_are_counted_and_their_ends_read(static: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    head, tail = ["w1"] * 12, ["w2"] * 4
    vectors = static.encode([" ".join([*head, *["w3"] * n, *tail]) for n in (0, 90_000)])
    assert vectors[0] == pytest.approx(vectors[1])
    assert "1 texts" in caplog.text


def test_identities_tell_static_vectors_from_the_encoders_own(static: Encoder, directory: Path) -> None:
    others = [make_encoder(Settings(), f"static:{directory}@17"), make_encoder(Settings(), f"{directory}@int8,16")]
    assert len({static.identity, *(other.identity for other in others)}) == 3


def test_a_model_without_word_embeddings_is_refused(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["embeddings.word_embeddings.weight"]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ConfigurationError, match="word_embeddings"):
        make_encoder(Settings(), f"static:{directory}").encode(["w1"])


def test_progress_counts_every_text_once(static: Encoder) -> None:
    seen: list[int] = []
    static.encode(["w1", "", *texts(2000, longest=4)], seen.append)
    assert sum(seen) == 2002
