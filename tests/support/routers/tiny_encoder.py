"""A sentence encoder of a few thousand weights, written as the files that transformers and tokenizers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from routing_service.embedding.base import Floats

SIZE, WIDE, LAYERS, HEADS, POSITIONS = 32, 64, 2, 4, 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [f"w{n}" for n in range(60)]


def write_encoder(directory: Path, seed: int = 0, prefix: str = "", pooling: str = "", **config: Any) -> Path:
    """A directory with config.json, tokenizer.json, model.safetensors and, if named, 1_Pooling/config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    described = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": SIZE,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "vocab_size": len(SPECIAL) + len(WORDS),
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "layer_norm_eps": 1e-12,
    } | config
    (directory / "config.json").write_text(json.dumps(described))
    tokenizer().save(str(directory / "tokenizer.json"))
    tensors = weights(np.random.default_rng(seed))
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    if pooling:
        (directory / "1_Pooling").mkdir(exist_ok=True)
        modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
        (directory / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return directory


def tokenizer() -> Tokenizer:
    """A word a token; it pads and truncates as it stands in its file, which readers must not rely on."""
    vocabulary = {token: number for number, token in enumerate(SPECIAL + WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    made.enable_truncation(4)
    made.enable_padding(length=4)
    return made


def weights(rng: np.random.Generator) -> dict[str, Floats]:
    def draw(*shape: int) -> Floats:
        drawn: Floats = (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        return drawn

    def norm(name: str) -> dict[str, Any]:
        return {f"{name}.weight": 1 + draw(SIZE), f"{name}.bias": draw(SIZE)}

    def linear(name: str, rows: int, columns: int) -> dict[str, Any]:
        return {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}

    actual = {
        "embeddings.word_embeddings.weight": draw(len(SPECIAL) + len(WORDS), SIZE),
        "embeddings.position_embeddings.weight": draw(POSITIONS, SIZE),
        "embeddings.token_type_embeddings.weight": draw(1, SIZE),
        **norm("embeddings.LayerNorm"),
    }
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            actual |= linear(f"{name}.attention.self.{part}", SIZE, SIZE)
        actual |= linear(f"{name}.attention.output.dense", SIZE, SIZE) | norm(f"{name}.attention.output.LayerNorm")
        actual |= linear(f"{name}.intermediate.dense", WIDE, SIZE) | linear(f"{name}.output.dense", SIZE, WIDE)
        actual |= norm(f"{name}.output.LayerNorm")
    return actual


def texts(count: int, seed: int = 0, longest: int = 30) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]
