"""What both sides of a comparison with RouteLLM are given: battles like Chatbot Arena's, vectors, and weights.

All of it is drawn by a seed: the Arena's own data and embeddings are not needed to time arithmetic. The vectors have a
common direction and topics, so that their cosines (about .2, and .5 within a topic) are like those of sentences.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from training.data.comparisons import Comparisons

Floats = npt.NDArray[np.float32]

STRONG, WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"  # RouteLLM's defaults
MODELS = 64
STRONG_NUMBER, WEAK_NUMBER = 24, 36  # in RouteLLM's list of 64 models
HIDDEN = 128
TOPICS = 40
TIES = 0.3


@dataclass(frozen=True, slots=True)
class Arena:
    """Comparisons of 64 models, each on a prompt of its own, queries, and the vectors of both."""

    comparisons: Comparisons
    queries: list[str]
    prompt_vectors: Floats
    query_vectors: Floats


class TableEncoder:
    """An encoder whose vectors are known: our side of the stub that RouteLLM's client gets."""

    spec = "table"
    identity = "table"

    def __init__(self, texts: list[str], vectors: Floats) -> None:
        self._vectors = vectors
        self._rows = {text: row for row, text in enumerate(texts)}
        self.dimensions = vectors.shape[1]

    def encode(self, texts: Sequence[str], progress: object = None) -> Floats:
        rows = [self._rows[text] for text in texts]
        # Not copied where they lie in this order: the look-up is the stub's, no part of what is timed.
        in_order = rows == list(range(rows[0], rows[0] + len(rows)))
        vectors: Floats = self._vectors[rows[0] : rows[0] + len(rows)] if in_order else self._vectors[rows]
        return vectors


def vectors(count: int, dimensions: int, rng: np.random.Generator) -> Floats:
    """Unit vectors, shape (count, dimensions)."""
    base = rng.standard_normal((TOPICS + 1, dimensions), np.float32) / np.sqrt(np.float32(dimensions))
    noise = rng.standard_normal((count, dimensions), np.float32) / np.sqrt(np.float32(dimensions))
    raw = noise + np.float32(0.62) * base[0] + np.float32(0.77) * base[1 + rng.integers(TOPICS, size=count)]
    unit: Floats = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


def make_arena(count: int, queries: int, dimensions: int, seed: int = 0) -> Arena:
    rng = np.random.default_rng(seed)
    models = _models()
    strength = np.linspace(-1.5, 1.5, MODELS)[rng.permutation(MODELS)]
    strength[[STRONG_NUMBER, WEAK_NUMBER]] = 1.4, 0.5
    a = rng.integers(MODELS, size=count)
    b = (a + 1 + rng.integers(MODELS - 1, size=count)) % MODELS
    won = rng.random(count) < 1 / (1 + np.exp(strength[b] - strength[a]))
    outcome = np.where(rng.random(count) < TIES, 0.5, won.astype(float))
    texts = [f"the prompt of battle number {number}" for number in range(count)]
    asked = [f"the query number {number}" for number in range(queries)]
    drawn = vectors(count + queries, dimensions, rng)
    rows = np.arange(count, dtype=np.int32)
    comparisons = Comparisons(
        texts, models, rows, a.astype(np.int32), b.astype(np.int32), outcome, np.ones(count), ["arena"] * count
    )
    return Arena(comparisons, asked, drawn[:count], drawn[count:])


def _models() -> list[str]:
    names = [f"model-{number}" for number in range(MODELS)]
    names[STRONG_NUMBER], names[WEAK_NUMBER] = STRONG, WEAK
    return names


def write_arena(arena: Arena, directory: Path) -> None:
    """For RouteLLM: the battles in the columns of its dataset, the vectors, and whose they are."""
    data = arena.comparisons
    battles = {
        "prompt": [json.dumps([text]) for text in data.prompts],
        "model_a": [data.models[i] for i in data.model_a.tolist()],
        "model_b": [data.models[i] for i in data.model_b.tolist()],
        "winner_model_a": (data.outcome == 1).astype(int).tolist(),
        "winner_model_b": (data.outcome == 0).astype(int).tolist(),
        "winner_tie": (data.outcome == 0.5).astype(int).tolist(),
    }
    (directory / "battles.json").write_text(json.dumps(battles), encoding="utf-8")
    (directory / "queries.json").write_text(json.dumps(arena.queries), encoding="utf-8")
    np.savez(directory / "vectors.npz", battles=arena.prompt_vectors, queries=arena.query_vectors)


def write_factors(directory: Path, dimensions: int, seed: int = 0) -> Path:
    """A checkpoint in the layout of RouteLLM's published matrix factorisation."""
    rng = np.random.default_rng(seed)
    path = directory / "mf"
    path.mkdir()
    sizes = {"dim": HIDDEN, "num_models": MODELS, "text_dim": dimensions, "num_classes": 1, "use_proj": True}
    (path / "config.json").write_text(json.dumps(sizes))
    tensors = {
        "P.weight": rng.standard_normal((MODELS, HIDDEN), np.float32),
        "text_proj.0.weight": rng.standard_normal((HIDDEN, dimensions), np.float32),
        "classifier.0.weight": rng.standard_normal((1, HIDDEN), np.float32),
    }
    save_file(tensors, path / "model.safetensors")
    return path


def write_classifier(directory: Path, encoder: Path, seed: int = 0) -> Path:
    """A classifier of XLM-RoBERTa-base's size (278 million weights, drawn) with the tokenizer of `encoder`.

    The head's last layer is enlarged and moved, so that win rates differ and stay away from 0 and 1.
    """
    import torch

    transformers = import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    sizes = {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1}
    config = transformers.XLMRobertaConfig(**sizes, num_labels=3)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(encoder), model_max_length=512)
    head = model.eval().classifier.out_proj
    with torch.no_grad():
        head.weight *= 20
        head.bias -= model(**tokenizer("How many are there?", return_tensors="pt")).logits[0]
    path = directory / "bert"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
