"""A transformers model and its tokenizer in an artifact: whole, tied weights once, nothing of where they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Artifact, read, write
from routing_service.routers.transformers.model_files import (
    KEY,
    pack_transformer,
    quiet,
    unpack_model,
    unpack_tokenizer,
)
from tests.support.routers.tiny_classifier import changed, tiny_classifier, tiny_tokenizer

IDS = torch.tensor([[2, 5, 9, 11, 3], [2, 6, 3, 0, 0]])
TOKENIZER = "tokenizer/tokenizer.json"


def packed(directory: Path, model: Any, **config: Any) -> Artifact:
    tensors, metadata = pack_transformer(model, tiny_tokenizer())
    metadata[KEY]["config"] |= config
    write(directory, "bert", tensors, metadata)
    return read(directory)


def llama(tied: bool) -> Any:
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, tie_word_embeddings=tied))
    return model.eval()


def test_a_classifier_and_its_tokenizer_are_rebuilt(tmp_path: Path) -> None:
    model = tiny_classifier()
    saved = packed(tmp_path / "r", model)
    rebuilt = unpack_model(saved, AutoModelForSequenceClassification)
    assert not rebuilt.training
    with torch.no_grad():
        assert rebuilt(IDS).logits.equal(model(IDS).logits)
    tokenizer = unpack_tokenizer(saved)
    assert tokenizer("w1 w2 w70")["input_ids"] == tiny_tokenizer()("w1 w2 w70")["input_ids"]
    assert (tokenizer.pad_token, tokenizer.model_max_length) == ("[PAD]", 64)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_written_once(tmp_path: Path, tied: bool) -> None:
    model = llama(tied)
    saved = packed(tmp_path / "r", model)
    assert ("weights/lm_head.weight" in saved.tensors.sizes) != tied
    rebuilt = unpack_model(saved, AutoModelForCausalLM)
    with torch.no_grad():
        assert rebuilt(IDS).logits.equal(model(IDS).logits)


def test_weights_are_converted_where_that_is_asked_for(tmp_path: Path) -> None:
    saved = packed(tmp_path / "r", llama(True).to(torch.bfloat16))
    assert saved.torch_tensor("weights/model.embed_tokens.weight").dtype == torch.bfloat16
    rebuilt = unpack_model(saved, AutoModelForCausalLM, dtype=torch.float32)
    assert {parameter.dtype for parameter in rebuilt.parameters()} == {torch.float32}


def test_the_artifact_says_nothing_of_where_the_model_came_from(tmp_path: Path) -> None:
    model = tiny_classifier()
    with quiet():
        model.save_pretrained(tmp_path / "secret")
        tiny_tokenizer().save_pretrained(tmp_path / "secret")
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "secret")
    first, second = packed(tmp_path / "a", model), packed(tmp_path / "b", loaded)
    assert first.digest == second.digest
    for name in ("a", "b"):
        assert b"secret" not in b"".join(file.read_bytes() for file in (tmp_path / name).iterdir())


@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation", "attn_implementation", "quantization_config"])
def test_a_configuration_cannot_name_code(tmp_path: Path, key: str) -> None:
    model = tiny_classifier()
    saved = packed(tmp_path / "r", model, **{key: {"AutoConfig": "evil--module.Class", "quant_method": "evil"}})
    rebuilt = unpack_model(saved, AutoModelForSequenceClassification)
    with torch.no_grad():
        assert rebuilt(IDS).logits.equal(model(IDS).logits)
    assert unpack_tokenizer(saved)("w1")["input_ids"]


def test_nor_can_that_of_a_part_of_the_model(tmp_path: Path) -> None:
    part = {"hidden_size": 8, "attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}
    saved = packed(tmp_path / "r", tiny_classifier(), task_specific_params={"part": part})
    rebuilt = unpack_model(saved, AutoModelForSequenceClassification)
    assert rebuilt.config.task_specific_params == {"part": {"hidden_size": 8}}


@pytest.mark.parametrize("file", ["evil.py", "../evil.json", ".json", "a/b.json"])
def test_a_tokenizers_file_of_another_kind_is_refused(tmp_path: Path, file: str) -> None:
    packed(tmp_path / "r", tiny_classifier())
    changed(tmp_path / "r", {f"tokenizer/{file}": np.frombuffer(b"{}", np.uint8)})
    with pytest.raises(ArtifactError, match="file that is none"):
        unpack_tokenizer(read(tmp_path / "r"))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00", b'{"version": "1.0", "model": {}}'])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    packed(tmp_path / "r", tiny_classifier())
    changed(tmp_path / "r", {TOKENIZER: np.frombuffer(content, np.uint8)})
    with pytest.raises(ArtifactError, match="tokenizer cannot be rebuilt"):
        unpack_tokenizer(read(tmp_path / "r"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": None}, "which model"),
        ({"model_type": "oracle"}, "no model's"),
        ({"model_type": "llama"}, "rebuilt|not those"),
        ({"num_hidden_layers": 3}, "not those of its model: 'roberta.encoder.layer.2"),
        ({"num_hidden_layers": 1}, "not those of its model: 'roberta.encoder.layer.1"),
        ({"hidden_size": 64}, "rebuilt"),
        ({"num_attention_heads": 5}, "rebuilt|no model's"),
        ({"hidden_act": "evil"}, "rebuilt|no model's"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_refused(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    saved = packed(tmp_path / "r", tiny_classifier(), **config)
    with pytest.raises(ArtifactError, match=reason):
        unpack_model(saved, AutoModelForSequenceClassification)


def test_transformers_is_as_talkative_after_as_before() -> None:
    import transformers

    logging: Any = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    with pytest.raises(ArtifactError), quiet():
        raise ArtifactError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
