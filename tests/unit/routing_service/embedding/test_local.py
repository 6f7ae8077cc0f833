"""Encoders on this machine: a text has the same vector alone and among others, in either precision.

Any text is read, of any length, in bounded memory.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from routing_service.embedding.base import Encoder, NotFiniteError, Precision, Spec
from routing_service.embedding.int8 import load_int8
from routing_service.embedding.local import Forward, LocalEncoder, minibatches
from routing_service.embedding.minibatches import Reader, clean, head_and_tail
from routing_service.embedding.model_files import find_model
from routing_service.embedding.torch_forward import halving, load_torch
from routing_service.errors import ConfigurationError, ScoringError
from tests.support.routers.tiny_encoder import POSITIONS, SIZE, SPECIAL, WORDS, texts, tokenizer, write_encoder

TOKENS = 32


def encoder(directory: Path, precision: Precision = "int8", minibatch: int = 128, tokens: int = TOKENS) -> LocalEncoder:
    def load(files: object) -> Forward:
        model = find_model(str(directory))
        return load_int8(model, minibatch) if precision == "int8" else load_torch(model, "cpu", minibatch)

    return LocalEncoder(Spec("local", str(directory), precision, tokens), find_model(str(directory)), load)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def int8(directory: Path) -> LocalEncoder:
    return encoder(directory)


@pytest.fixture(scope="module")
def exact(directory: Path) -> LocalEncoder:
    return encoder(directory, "float")


def test_vectors_have_length_one_and_come_in_the_order_of_the_texts(int8: LocalEncoder) -> None:
    some = texts(40)
    vectors = int8.encode(some)
    assert vectors.shape == (40, SIZE)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    assert int8.encode(some[::-1])[::-1] == pytest.approx(vectors, abs=1e-5)


@pytest.mark.parametrize("precision", ["int8", "exact"])
def test_a_text_has_the_same_vector_alone_and_among_others(precision: str, request: pytest.FixtureRequest) -> None:
    made: Encoder = request.getfixturevalue(precision)
    some = texts(30)
    alone = np.concatenate([made.encode([text]) for text in some])
    assert alone == pytest.approx(made.encode(some), abs=2e-5)


def test_integers_stay_near_the_float_vectors(int8: LocalEncoder, exact: LocalEncoder) -> None:
    some = texts(60)
    cosines = (int8.encode(some) * exact.encode(some)).sum(axis=1)
    assert cosines.min() > 0.985


def test_integers_stay_near_the_float_vectors_of_minilm(tmp_path: Path) -> None:
    minilm = find_model("minilm")
    some = ["How many primes are below ten?", "Write a poem about the sea.", "日本語のテキスト", "x"]
    made = [encoder(minilm.directory, precision) for precision in ("int8", "float")]
    cosines = np.multiply(*(one.encode(some) for one in made)).sum(axis=1)
    assert cosines.min() > 0.985


@pytest.mark.parametrize("config", [{"model_type": "roberta", "pad_token_id": 1}, {"model_type": "xlm-roberta"}])
def test_roberta_counts_positions_as_transformers_does(tmp_path: Path, config: dict[str, Any]) -> None:
    write_encoder(tmp_path, prefix="roberta.", architectures=["RobertaModel"], **config)
    some = texts(20)
    cosines = (encoder(tmp_path).encode(some) * encoder(tmp_path, "float").encode(some)).sum(axis=1)
    assert cosines.min() > 0.985


def test_the_first_token_is_the_vector_where_the_model_says_so(tmp_path: Path) -> None:
    by_first, by_mean = write_encoder(tmp_path / "a", pooling="cls_token"), write_encoder(tmp_path / "b")
    some = texts(20)
    first = encoder(by_first).encode(some)
    assert (first * encoder(by_first, "float").encode(some)).sum(axis=1).min() > 0.985
    assert (first * encoder(by_mean).encode(some)).sum(axis=1).max() < 0.985
    assert encoder(by_first).identity != encoder(by_mean).identity


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path, pooling="max_tokens")
    with pytest.raises(ConfigurationError, match="max_tokens"):
        encoder(tmp_path).encode(["w1"])


def test_an_empty_text_is_the_zero_vector(int8: LocalEncoder) -> None:
    vectors = int8.encode(["", "w1", " \n\t"])
    assert not vectors[[0, 2]].any()
    assert np.linalg.norm(vectors[1]) == pytest.approx(1)
    assert int8.encode([]).shape == (0, SIZE)


@pytest.mark.parametrize("text", ["w1 " * 50_000, "x" * 1_000_000, "\ud800 w1", "\0", "ʼń﷽" * 999, "🧪" * 100_000])
def test_no_text_breaks_an_encoder(int8: LocalEncoder, text: str) -> None:
    vectors = int8.encode([text, "w2"])
    assert np.isfinite(vectors).all()
    assert vectors[1] == pytest.approx(int8.encode(["w2"])[0], abs=1e-5)


def test_of_a_long_text_head_and_tail_are_read_and_it_is_counted(directory: Path) -> None:
    made = encoder(directory)
    head, tail = ["w1", "w2"] * 11 + ["w3"], ["w4"] * 7  # 23 + 7 words beside two special tokens
    vectors = made.encode([" ".join(head + ["w9"] * n + tail) for n in (0, 1, 5_000)])
    assert made.shortened == 2
    assert vectors[1] == pytest.approx(vectors[2], abs=1e-5)
    changed = made.encode([" ".join([*head, "w9", *tail[:-1], "w5"])])
    assert changed[0] != pytest.approx(vectors[1], abs=1e-3)


def test_nan_is_refused_with_the_number_of_the_text(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    poisoned = tensors["embeddings.word_embeddings.weight"].copy()
    poisoned[4 + WORDS.index("w7")] = np.nan
    save_file(tensors | {"embeddings.word_embeddings.weight": poisoned}, tmp_path / "model.safetensors")
    made = encoder(tmp_path, "float")
    with pytest.raises(ScoringError, match="text 3") as caught:
        made.encode(["w1", "w2 w2", "w7", "w7 w7 w7"])
    assert isinstance(caught.value, NotFiniteError)
    assert caught.value.row == 2
    assert str(tmp_path) not in str(caught.value)  # clients read it
    assert str(tmp_path) in "".join(traceback.format_exception(caught.value))


def test_progress_counts_every_text_once(int8: LocalEncoder) -> None:
    seen: list[int] = []
    int8.encode([*texts(50), "", ""], seen.append)
    assert sum(seen) == 52


def test_the_identity_is_that_of_weights_precision_and_tokens(directory: Path, tmp_path: Path) -> None:
    same = write_encoder(tmp_path / "same")
    others = [
        encoder(write_encoder(tmp_path / "weights", seed=1)),
        encoder(directory, "float"),
        encoder(directory, tokens=16),
    ]
    assert encoder(directory).identity == encoder(same).identity
    assert len({encoder(directory).identity, *(other.identity for other in others)}) == 4


def test_what_int8_does_not_know_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_encoder(tmp_path, hidden_act="relu")
    with pytest.raises(ConfigurationError, match="precision = 'float'"):
        encoder(tmp_path).encode(["w1"])


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"layer\.1\.output\.dense\.bias"):
        encoder(tmp_path).encode(["w1"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "safetensors"),
        ({"model.safetensors": ""}, "config.json"),
        ({"config.json": "[", "a.safetensors": ""}, "read"),
    ],
)
def test_a_directory_that_holds_no_encoder_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        _ = find_model(str(tmp_path)).dimensions


def test_a_path_that_is_not_there_is_not_looked_up_on_a_hub(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such directory"):
        find_model(str(tmp_path / "none"))


def test_positions_bound_what_is_read(tmp_path: Path) -> None:
    files = find_model(str(write_encoder(tmp_path)))
    assert files.max_positions == POSITIONS
    (tmp_path / "config.json").write_text(json.dumps(files.config | {"model_type": "roberta", "pad_token_id": 1}))
    assert find_model(str(tmp_path)).max_positions == POSITIONS - 2


MINIBATCH_TOKENS = 12
READER = Reader(tokenizer(), MINIBATCH_TOKENS)
anything = st.text(st.characters(exclude_categories=()), max_size=200)  # surrogates, too


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 500))
def test_every_text_with_tokens_is_in_one_minibatch_of_bounded_size(lengths: list[int], tokens: int) -> None:
    items = list(minibatches(np.array(lengths, np.int64), tokens))
    assert sorted(row for rows in items for row in rows) == [row for row, length in enumerate(lengths) if length]
    for rows in items:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= tokens


def test_texts_of_like_length_are_together() -> None:
    lengths = np.array([100, 3, 99, 4, 98, 5] * 10)
    for rows in minibatches(lengths, 300):
        assert np.ptp(lengths[rows]) <= 2


@given(anything, st.integers(8, 40))
def test_head_and_tail_of_any_text_fit(text: str, characters: int) -> None:
    cut = head_and_tail(text, characters)
    assert len(cut) <= characters
    assert cut == text or (text.startswith(cut[: characters // 2]) and text.endswith(cut[-characters // 8 :]))
    clean(text, characters).encode()  # which lone surrogates would not allow


@given(st.lists(anything, max_size=8))
def test_any_text_gives_few_tokens_between_the_special_ones(texts: list[str]) -> None:
    actual, _ = READER.read(texts)
    assert len(actual) == len(texts)
    for ids in actual:
        assert len(ids) <= MINIBATCH_TOKENS
        assert len(ids) == 0 or (ids[0], ids[-1]) == (SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]"))


def test_a_long_text_keeps_three_quarters_head_and_a_quarter_tail() -> None:
    (actual,), long = READER.read([" ".join(WORDS[:30])])
    words = [number - len(SPECIAL) for number in actual[1:-1]]
    assert words == [*range(7), 27, 28, 29]
    assert long == 1


def test_what_memory_does_not_hold_is_done_in_halves() -> None:
    sizes: list[int] = []

    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError
        return ids.sum(1, keepdim=True)

    ids = torch.arange(20).reshape(10, 2)
    assert halving(run, ids, torch.ones_like(ids)).equal(ids.sum(1, keepdim=True))
    assert max(sizes[1:]) <= 5


def test_a_text_that_memory_does_not_hold_alone_is_an_error() -> None:
    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(ScoringError, match="does not hold a text of 2 tokens"):
        halving(run, torch.ones(4, 2), torch.ones(4, 2))
