"""RouteLLM's published matrix factorisation (`routellm/mf_gpt4_augmented`) as an artifact of ours.

The checkpoint is a directory with config.json and model.safetensors: P.weight, a vector for each of 64 models;
text_proj.0.weight and classifier.0.weight, without biases. Its prompts are embedded by OpenAI's text-embedding-3-small,
so the router needs an endpoint that serves that model (`embedding.base_url`).

It holds no comparisons, hence no ratings. Models are rated, for tiers, along the direction of prompts' vectors in which
their strengths differ most, turned so that its strong model is above its weak one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load

from routing_service.embedding.registry import Encoder, make_encoder
from routing_service.errors import ArtifactError
from routing_service.routers.bradley_terry.matrix_factorization import Factors, MatrixFactorizationRouter
from routing_service.routers.bradley_terry.rated_models import RatedModels
from routing_service.settings import Settings
from training.fit.tiers import TIERS, tiers_of

ENCODER = "endpoint:text-embedding-3-small@8191"
CONFIG = "config.json"
TENSORS = "model.safetensors"
MAX_BYTES = 1 << 30
PAIR = ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")  # whom RouteLLM scores by

# By their rows in P.weight.
_MODELS = """
RWKV-4-Raven-14B alpaca-13b chatglm-6b chatglm2-6b chatglm3-6b claude-1 claude-2.0 claude-2.1 claude-instant-1
codellama-34b-instruct deepseek-llm-67b-chat dolly-v2-12b dolphin-2.2.1-mistral-7b falcon-180b-chat fastchat-t5-3b
gemini-pro gemini-pro-dev-api gpt-3.5-turbo-0125 gpt-3.5-turbo-0314 gpt-3.5-turbo-0613 gpt-3.5-turbo-1106
gpt-4-0125-preview gpt-4-0314 gpt-4-0613 gpt-4-1106-preview gpt4all-13b-snoozy guanaco-33b koala-13b llama-13b
llama-2-13b-chat llama-2-70b-chat llama-2-7b-chat llama2-70b-steerlm-chat mistral-7b-instruct mistral-7b-instruct-v0.2
mistral-medium mixtral-8x7b-instruct-v0.1 mpt-30b-chat mpt-7b-chat nous-hermes-2-mixtral-8x7b-dpo oasst-pythia-12b
openchat-3.5 openchat-3.5-0106 openhermes-2.5-mistral-7b palm-2 pplx-70b-online pplx-7b-online qwen-14b-chat
qwen1.5-4b-chat qwen1.5-72b-chat qwen1.5-7b-chat solar-10.7b-instruct-v1.0 stablelm-tuned-alpha-7b starling-lm-7b-alpha
stripedhyena-nous-7b tulu-2-dpo-70b vicuna-13b vicuna-33b vicuna-7b wizardlm-13b wizardlm-70b yi-34b-chat
zephyr-7b-alpha zephyr-7b-beta
"""
MODELS = tuple(_MODELS.split())

Matrix = npt.NDArray[np.float32]

__all__ = ["MODELS", "import_matrix_factorization"]


def import_matrix_factorization(
    path: Path, settings: Settings, encoder: Encoder | None = None
) -> MatrixFactorizationRouter:
    """The router of a checkpoint's directory; `encoder`: another than the endpoint's, of the same numbers.

    ArtifactError for whatever is wrong with the files; ConfigurationError where no embeddings endpoint is configured.
    """
    dim, text_dim, projected = _config(path / CONFIG)
    tensors = _tensors(path)
    models = _tensor(tensors, "P.weight", len(MODELS), dim)
    projection = _tensor(tensors, "text_proj.0.weight", dim, text_dim) if projected else np.eye(dim, dtype=np.float32)
    classifier = _tensor(tensors, "classifier.0.weight", 1, dim)[0]
    length = np.linalg.norm(models, axis=1, keepdims=True)
    unit = (models / np.maximum(length, 1e-12)).astype(np.float32)  # as torch's normalize
    ratings, typical = _ratings(unit, projection, classifier)
    tiers = tiers_of(ratings, TIERS)
    rated = RatedModels(MODELS, tuple(tiers.tolist()), tuple(ratings.tolist()), PAIR)
    factors = Factors(unit, projection, np.zeros(dim, np.float32), classifier, typical)
    encoder = encoder or make_encoder(settings, ENCODER)
    metadata = {"seed": None, "data": {"checkpoint": path.name, "sources": {"routellm": 1}}, "metrics": {}}
    return MatrixFactorizationRouter(factors, rated, encoder, settings, metadata=metadata)


def _ratings(models: Matrix, projection: Matrix, classifier: Matrix) -> tuple[npt.NDArray[np.float64], Matrix]:
    """Every model's strength for the unit vector along which strengths differ most, and that vector."""
    slopes = (models * classifier).astype(np.float64) @ projection
    directions = np.linalg.svd(slopes - slopes.mean(axis=0), full_matrices=False)[2]
    ratings = (slopes - slopes.mean(axis=0)) @ directions[0]
    strong, weak = (MODELS.index(name) for name in PAIR)
    sign = 1.0 if ratings[strong] >= ratings[weak] else -1.0
    return sign * ratings, (sign * directions[0]).astype(np.float32)


def _config(file: Path) -> tuple[int, int, bool]:
    """dim, text_dim, use_proj."""
    try:
        config = orjson.loads(_read(file))
    except orjson.JSONDecodeError as error:
        raise ArtifactError(f"{file} is not JSON: {error}") from None
    names = ("dim", "num_models", "text_dim", "num_classes")
    if not isinstance(config, dict) or not all(type(config.get(name)) is int and config[name] > 0 for name in names):
        raise ArtifactError(f"{file}: {', '.join(names)} must be positive integers")
    if config["num_models"] != len(MODELS) or config["num_classes"] != 1:
        raise ArtifactError(f"{file}: RouteLLM's checkpoint has {len(MODELS)} models and one class, this one has not")
    projected = config.get("use_proj")
    if not isinstance(projected, bool) or not (projected or config["dim"] == config["text_dim"]):
        raise ArtifactError(f"{file}: use_proj must be true, or false where dim is text_dim")
    return config["dim"], config["text_dim"], projected


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    file = path / TENSORS
    if not file.exists() and list(path.glob("*.bin")):
        raise ArtifactError(f"{path} holds pickled weights, which are never read: get {TENSORS} of the checkpoint")
    try:
        return load(_read(file))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{file} is no safetensors file: {error}") from None


def _tensor(tensors: dict[str, npt.NDArray[Any]], name: str, *shape: int) -> Matrix:
    array = tensors.get(name)
    if array is None or array.dtype.kind != "f" or array.shape != shape:
        actual = "is missing" if array is None else f"is {array.dtype}{list(array.shape)}"
        raise ArtifactError(f"{TENSORS}: {name} {actual}; floats of the shape {list(shape)} are expected")
    if not np.isfinite(array).all():
        raise ArtifactError(f"{TENSORS}: {name} holds values that are not finite")
    return array.astype(np.float32)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ArtifactError(f"{file} is larger than {MAX_BYTES:,} bytes")
    return content
