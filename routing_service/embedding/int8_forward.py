"""The forward pass in 8-bit integers on a CPU, by ONNX Runtime; torch is not needed."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from routing_service import device
from routing_service.embedding.base import Floats
from routing_service.embedding.files import WORDS, ModelFiles, Weights, weights_of
from routing_service.embedding.local import Forward
from routing_service.embedding.reading import Ids
from routing_service.errors import ConfigurationError

CPU_TOKENS = 512  # a minibatch: what a processor's caches hold; with more there is more padding, too

__all__ = ["can_load", "forward_of", "load_int8"]


def can_load(files: ModelFiles) -> bool:
    """Whether the packages are installed, and the model is of a kind that is known."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return False
    from routing_service.embedding.int8_graph import supported

    return supported(files.config)


def load_int8(files: ModelFiles, minibatch_tokens: int) -> Forward:
    """ConfigurationError for a model of another kind than BERT's and RoBERTa's, or missing packages."""
    if not can_load(files):
        kind = files.config.get("model_type")
        raise ConfigurationError(
            f"int8 needs onnx, onnxruntime and a model like BERT, RoBERTa or XLM-RoBERTa; "
            f"{files.directory} is {kind!r}: pip install 'routebatch[models]', or take embedding.precision = 'float'"
        )
    try:
        return forward_of(weights_of(files.directory), files.config, files.pooling, minibatch_tokens)
    except KeyError as error:
        raise ConfigurationError(f"{files.directory} lacks the weights {error}") from None


def forward_of(weights: Weights, config: dict[str, Any], pooling: str, minibatch_tokens: int) -> Forward:
    """The same of a model that `supported` knows, from weights that lie anywhere. KeyError for one that is lacking."""
    from routing_service.embedding.int8_graph import build

    session = _session(build(weights, config).SerializeToString())
    words, positions = _tables(weights, config)

    def forward(ids: Ids, mask: Ids) -> Floats:
        embedded = words[ids]
        embedded += positions[: ids.shape[1]]
        lengths = mask.sum(1)
        found = session.run(
            None,
            {"embedded": embedded, "lengths": lengths.astype(np.int32), "shares": _shares(mask, lengths, pooling)},
        )
        vectors: Floats = found[0][:, 0]
        return vectors

    return Forward(forward, device.threads(), min(CPU_TOKENS, minibatch_tokens))


def _session(model: bytes) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The graph is written in fused operators; further fusing takes SkipLayerNormalization, which is five times slower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # Minibatches run beside each other, one thread each: nothing waits for another's part of a small product.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it would keep a plan for every shape
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _tables(weights: Weights, config: dict[str, Any]) -> tuple[Floats, Floats]:
    """Embeddings of words, and of positions with the one segment that there is."""
    positions = weights("embeddings.position_embeddings.weight")
    if config["model_type"] != "bert":
        positions = positions[int(config.get("pad_token_id") or 0) + 1 :]  # RoBERTa counts from behind padding
    return weights(WORDS), positions + weights("embeddings.token_type_embeddings.weight")[0]


def _shares(mask: Ids, lengths: Ids, pooling: str) -> Floats:
    if pooling == "cls":
        shares = np.zeros(mask.shape, np.float32)
        shares[:, 0] = 1
    else:
        shares = (mask / lengths[:, None]).astype(np.float32)
    return shares[:, None]
