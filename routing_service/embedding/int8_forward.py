"""The forward pass in 8-bit integers on a CPU, by ONNX Runtime; torch is not needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service import device
from routing_service.embedding.base import Floats
from routing_service.embedding.files import ModelFiles
from routing_service.embedding.local import Forward
from routing_service.embedding.reading import Ids
from routing_service.errors import ConfigurationError

CPU_TOKENS = 1024  # a minibatch: what a processor's caches hold; twice as many take a tenth longer

__all__ = ["can_load", "load_int8", "weights_of"]


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
    from routing_service.embedding.int8_graph import build

    try:
        weights = weights_of(files.directory)
        session = _session(build(weights, files.config).SerializeToString())
        words, positions = _tables(weights, files.config)
    except KeyError as error:
        raise ConfigurationError(f"{files.directory} lacks the weights {error}") from None
    pooling = files.pooling

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


def weights_of(directory: Path) -> Callable[[str], npt.NDArray[np.float32]]:
    """Tensors by their name without the model's prefix (`bert.`), in float32. KeyError for one that is not there."""
    from safetensors import safe_open

    files: list[Any] = [safe_open(path, framework="np") for path in sorted(directory.glob("*.safetensors"))]
    names = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (it is no dict)
    root = "embeddings.word_embeddings.weight"
    prefix = next((name.removesuffix(root) for name in names if name.endswith(root)), "")

    def tensor(name: str) -> npt.NDArray[np.float32]:
        try:
            found: npt.NDArray[np.float32] = (
                names[prefix + name].get_tensor(prefix + name).astype(np.float32, copy=False)
            )
        except TypeError as error:  # bfloat16, which numpy does not know
            raise ConfigurationError(f"{directory}: {error}: take embedding.precision = 'float'") from None
        return found

    return tensor


def _session(model: bytes) -> Any:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Minibatches run beside each other, one thread each: nothing waits for another's part of a small product.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # it would keep a plan for every shape
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _tables(weights: Callable[[str], Any], config: dict[str, Any]) -> tuple[Floats, Floats]:
    """Embeddings of words, and of positions with the one segment that there is."""
    positions = weights("embeddings.position_embeddings.weight")
    if config["model_type"] != "bert":
        positions = positions[int(config.get("pad_token_id") or 0) + 1 :]  # RoBERTa counts from behind padding
    return weights("embeddings.word_embeddings.weight"), positions + weights("embeddings.token_type_embeddings.weight")[
        0
    ]


def _shares(mask: Ids, lengths: Ids, pooling: str) -> Floats:
    if pooling == "cls":
        shares = np.zeros(mask.shape, np.float32)
        shares[:, 0] = 1
    else:
        shares = (mask / lengths[:, None]).astype(np.float32)
    return shares[:, None]
