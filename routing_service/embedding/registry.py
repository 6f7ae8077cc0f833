"""Prompts to vectors: local encoders, an upstream's embeddings endpoint, and a cache on disk.

`make_encoder(settings)` gives the configured encoder, `make_encoder(settings, spec)` the one that an artifact names.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from routing_service import device
from routing_service.embedding.base import Encoder, Floats, Precision, Progress, Shortening, Spec, parse
from routing_service.errors import ArtifactError, ConfigurationError
from routing_service.settings import Settings

if TYPE_CHECKING:
    from routing_service.embedding.model_files import ModelFiles

_made: dict[Any, Encoder] = {}
_lock = threading.Lock()

__all__ = ["Encoder", "Floats", "Progress", "check_identity", "identify", "make_encoder", "saved_encoder"]


def make_encoder(settings: Settings, spec: str | None = None) -> Encoder:
    """The encoder of that name, the configured one for None; one a process for each name, loaded at its first text.

    ConfigurationError for a name that is none, a model that is not there, packages that are not installed.
    """
    parsed = parse(spec or settings.embedding.encoder, settings)
    key = (str(parsed), settings.embedding, settings.routing.device)
    with _lock:
        if key not in _made:
            encoder = _make(parsed, settings)
            _made[key] = _made.setdefault((encoder.spec, *key[1:]), encoder)  # `auto` may be one that is made already
        return _made[key]


def identify(encoder: Encoder) -> dict[str, str]:
    """What an artifact keeps of the encoder that its router was fitted with."""
    return {"spec": encoder.spec, "identity": encoder.identity}


def check_identity(encoder: Encoder, saved: Any) -> None:
    """ArtifactError unless `saved` is what `identify` gave for an encoder whose vectors are this one's."""
    spec, identity = _read(saved)
    if identity != encoder.identity:
        raise ArtifactError(
            f"the router was fitted with the encoder {spec[:200]} ({identity[:80]}); here that is {encoder.spec} "
            f"({encoder.identity}), whose vectors are others: configure the same weights, or fit the router again"
        )


def saved_encoder(settings: Settings, saved: Any) -> Encoder:
    """The encoder that an artifact names by what `identify` gave. ArtifactError if it is not there or is another."""
    spec, _ = _read(saved)
    try:
        encoder = make_encoder(settings, spec)
        check_identity(encoder, saved)
    except ConfigurationError as error:
        raise ArtifactError(f"the router's encoder {spec[:200]} cannot be used here: {error}") from error
    return encoder


def _read(saved: Any) -> tuple[str, str]:
    if not isinstance(saved, dict) or not all(isinstance(saved.get(key), str) for key in ("spec", "identity")):
        raise ArtifactError("the artifact does not say which encoder its router was fitted with")
    return saved["spec"], saved["identity"]


def _make(spec: Spec, settings: Settings) -> Encoder:
    if spec.kind == "static":
        from routing_service.embedding.model_files import find_model
        from routing_service.embedding.static import StaticEncoder

        return StaticEncoder(spec, find_model(spec.name))
    from routing_service.embedding.cache import CachedEncoder, VectorCache, default_directory

    cache = VectorCache(settings.embedding.cache or default_directory(), settings.embedding.cache_bytes)
    return CachedEncoder(_endpoint(spec, settings) if spec.kind == "endpoint" else _local(spec, settings), cache)


def _endpoint(spec: Spec, settings: Settings) -> Shortening:
    from routing_service.embedding.endpoint import EndpointEncoder

    return EndpointEncoder(spec, settings)


def _local(spec: Spec, settings: Settings) -> Shortening:
    from routing_service.embedding.local import Forward, LocalEncoder
    from routing_service.embedding.model_files import find_model

    files = find_model(spec.name)
    precision = _precision(files, settings) if spec.precision == "auto" else spec.precision
    spec = replace(spec, precision=precision, tokens=min(spec.tokens, files.max_positions or spec.tokens))

    def load(files: ModelFiles) -> Forward:
        if precision == "int8":
            from routing_service.embedding.int8 import load_int8

            return load_int8(files, settings.embedding.minibatch_tokens)
        from routing_service.embedding.torch_forward import load_torch

        return load_torch(files, settings.routing.device, settings.embedding.minibatch_tokens)

    return LocalEncoder(spec, files, load)


def _precision(files: ModelFiles, settings: Settings) -> Precision:
    """int8 where there is no CUDA and the model is of a kind that int8 knows."""
    from routing_service.embedding.int8 import can_load

    return "int8" if not device.is_cuda(settings.routing.device) and can_load(files) else "float"
