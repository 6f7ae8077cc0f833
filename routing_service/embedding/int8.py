"""A BERT-like encoder in 8-bit integers on a CPU: an ONNX graph of its weights, run by ONNX Runtime, without torch.

The graph is built from the weights themselves, in a second and in memory: no export, no file. Every row of activations
has a scale of its own, so that a text's vector does not depend on its neighbours in the minibatch (with one scale for
all, as dynamic quantisation has it, the cosine of a text alone and among others falls to .98). Channels that are much
larger than the rest are evened out before (SmoothQuant, arXiv 2211.10438), by what the layer norms' weights say.
Weights take 7 bits: with 8 the sums of processors without VNNI overflow, and vectors would differ between machines.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from routing_service import device
from routing_service.embedding.base import Floats
from routing_service.embedding.local import Forward
from routing_service.embedding.minibatches import Ids
from routing_service.embedding.model_files import WORDS, ModelFiles, Weights, weights_of
from routing_service.errors import ConfigurationError

__all__ = ["MODELS", "build", "can_load", "forward_of", "load_int8", "supported"]

CPU_TOKENS = 512  # a minibatch: what a processor's caches hold; with more there is more padding, too


def can_load(files: ModelFiles) -> bool:
    """Whether the packages are installed, and the model is of a kind that is known."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return False
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
    session = _session(build(weights, config).SerializeToString())
    words, positions = _tables(weights, config)

    def forward(ids: Ids, mask: Ids) -> Floats:
        embedded = words[ids]
        embedded += positions[: ids.shape[1]]
        lengths = mask.sum(1)
        outputs = session.run(
            None,
            {"embedded": embedded, "lengths": lengths.astype(np.int32), "shares": _shares(mask, lengths, pooling)},
        )
        vectors: Floats = outputs[0][:, 0]
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


MODELS = ("bert", "camembert", "roberta", "xlm-roberta")
CONTRIB = "com.microsoft"  # ONNX Runtime's own operators
WEIGHT = 63  # the largest integer of a weight
MIDDLE = 128  # what stands for zero in activations of both signs
LOW = 32  # and behind GELU, whose values hardly go below zero
SMALLEST = 1e-12


def supported(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes an encoder that `build` knows."""
    positions = config.get("position_embedding_type", "absolute")
    known = config.get("model_type") in MODELS and positions == "absolute"
    return known and config.get("hidden_act", "gelu") == "gelu" and not config.get("is_decoder")


def build(weights: Weights, config: Mapping[str, Any]) -> ModelProto:
    """The graph from summed embeddings (texts, tokens, size), their `lengths` and `shares` to `pooled`.

    `shares` (texts, 1, tokens) says how much each token's state counts in the pooled vector (texts, 1, size).
    """
    graph = _Graph(weights, float(config.get("layer_norm_eps", 1e-12)))
    states = graph.norm("embedded", "embeddings.LayerNorm")
    before = "embeddings.LayerNorm"
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        mixed = _attention(graph, states, before, name, config["num_attention_heads"])
        states = graph.norm(graph.add(states, mixed), f"{name}.attention.output.LayerNorm")
        states = graph.norm(graph.add(states, _feed_forward(graph, states, name)), f"{name}.output.LayerNorm")
        before = f"{name}.output.LayerNorm"
    graph.node("MatMul", ["shares", states], out="pooled")
    return graph.model(config["hidden_size"])


def _attention(graph: _Graph, states: str, before: str, name: str, heads: int) -> str:
    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    matrix = np.concatenate([graph.weights(f"{part}.weight") for part in parts])
    bias = np.concatenate([graph.weights(f"{part}.bias") for part in parts])
    scaled, factors = graph.evened(states, matrix, before)
    product = graph.product(scaled, matrix * factors)
    query, key, value = graph.nodes("Split", [product], 3, axis=-1, num_outputs=3)
    mixed = graph.node(
        "MultiHeadAttention", [query, key, value, graph.constant(bias), "lengths"], CONTRIB, num_heads=heads
    )
    output = f"{name}.attention.output.dense"
    return graph.add(graph.product(mixed, graph.weights(f"{output}.weight")), graph.bias(output))


def _feed_forward(graph: _Graph, states: str, name: str) -> str:
    matrix = graph.weights(f"{name}.intermediate.dense.weight")
    scaled, factors = graph.evened(states, matrix, f"{name}.attention.output.LayerNorm")
    wide = graph.product(scaled, matrix * factors)
    wide = graph.node("FastGelu", [wide, graph.bias(f"{name}.intermediate.dense")], CONTRIB)
    narrow = graph.product(wide, graph.weights(f"{name}.output.dense.weight"), LOW)
    return graph.add(narrow, graph.bias(f"{name}.output.dense"))


class _Graph:
    """Nodes and constants as they are added; values are known by the names of outputs."""

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self.weights = weights
        self._epsilon = epsilon
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._last_axis = self.constant(np.array([-1], np.int64))
        self._smallest = self.constant(np.float32(SMALLEST))

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def nodes(self, kind: str, inputs: Sequence[str], outputs: int, domain: str = "", **options: Any) -> list[str]:
        names = [f"{kind}_{len(self._nodes)}_{n}" for n in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **options))
        return names

    def node(self, kind: str, inputs: Sequence[str], domain: str = "", out: str = "", **options: Any) -> str:
        name = out or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **options))
        return name

    def add(self, left: str, right: str) -> str:
        return self.node("Add", [left, right])

    def bias(self, layer: str) -> str:
        return self.constant(self.weights(f"{layer}.bias"))

    def norm(self, states: str, name: str) -> str:
        scale, shift = (self.constant(self.weights(f"{name}.{part}")) for part in ("weight", "bias"))
        return self.node("LayerNormalization", [states, scale, shift], axis=-1, epsilon=self._epsilon)

    def evened(self, states: str, matrix: npt.NDArray[np.float32], norm: str) -> tuple[str, npt.NDArray[np.float32]]:
        """The states that a layer norm gave, divided by a factor a channel, and the factors, for the weights."""
        largest = np.abs(self.weights(f"{norm}.bias")) + 3 * np.abs(self.weights(f"{norm}.weight"))
        factors = np.sqrt(np.maximum(largest, SMALLEST) / np.maximum(np.abs(matrix).max(0), SMALLEST))
        factors = np.maximum(factors / np.exp(np.log(factors).mean()), 1e-5).astype(np.float32)
        return self.node("Mul", [states, self.constant(1 / factors)]), factors

    def product(self, states: str, matrix: npt.NDArray[np.float32], zero: int = MIDDLE) -> str:
        """states @ matrix.T, where the integer `zero` stands for 0 in the states."""
        scales = np.maximum(np.abs(matrix).max(1), SMALLEST) / WEIGHT
        integers = np.rint(matrix / scales[:, None]).astype(np.int8).T
        largest = self.node("ReduceMax", [self.node("Abs", [states]), self._last_axis], keepdims=1)
        largest = self.node("Max", [largest, self._smallest])
        step, middle = self.constant(np.float32(1 / (255 - zero))), self.constant(np.uint8(zero))
        rows = self.node("QuantizeLinear", [self.node("Div", [states, largest]), step, middle])
        inputs = [rows, self.constant(integers), step, self.constant(scales.astype(np.float32)), middle]
        return self.node("Mul", [self.node("MatMulIntegerToFloat", inputs, CONTRIB), largest])

    def model(self, size: int) -> ModelProto:
        value = helper.make_tensor_value_info
        inputs = [
            value("embedded", TensorProto.FLOAT, ["texts", "tokens", size]),
            value("lengths", TensorProto.INT32, ["texts"]),
            value("shares", TensorProto.FLOAT, ["texts", 1, "tokens"]),
        ]
        outputs = [value("pooled", TensorProto.FLOAT, ["texts", 1, size])]
        graph = helper.make_graph(self._nodes, "encoder", inputs, outputs, self._constants)
        versions = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=9)
