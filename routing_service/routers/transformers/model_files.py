"""A transformers model and its tokenizer as tensors and metadata of an artifact, and back: safetensors and JSON alone.

The weights become tensors `weights/NAME`, the tokenizer's files tensors `tokenizer/FILE` of bytes, the configuration a
part of the metadata. What is rebuilt runs only transformers' own code: nothing that an artifact says loads any.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
import transformers

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Artifact, Tensors

KEY = "transformer"  # in the metadata
WEIGHTS = "weights/"
TOKENIZER = "tokenizer/"
MAX_TOKENIZER_BYTES = 1 << 28
# Names of files as save_pretrained writes them: no directories, nothing that is code.
_file_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}\.(json|txt|model|jinja)").fullmatch
# Where the model came from is no part of it, and what names code on a hub is neither written nor followed.
_LEFT_OUT = {"auto_map", "attn_implementation", "experts_implementation", "quantization_config"}
_LEFT_OUT |= {"name_or_path", "transformers_version", "is_local", "local_files_only"}

__all__ = ["pack_transformer", "quiet", "unpack_model", "unpack_tokenizer"]


def pack_transformer(model: Any, tokenizer: Any) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and metadata of a `PreTrainedModel` and a tokenizer. Tied weights are written once.

    The tensors are those of the model, not copies: write them before it is trained on.
    """
    tensors: Tensors = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        tensors[WEIGHTS + name] = tensor
    with tempfile.TemporaryDirectory(prefix="routebatch-") as directory:
        with quiet():
            tokenizer.save_pretrained(directory)
        for file in sorted(Path(directory).iterdir()):
            if _file_name(file.name):
                tensors[TOKENIZER + file.name] = np.frombuffer(_tidied(file), np.uint8)
    return tensors, {KEY: {"config": _plain(orjson.loads(model.config.to_json_string(use_diff=False)))}}


def unpack_model(saved: Artifact, cls: Any, *, dtype: torch.dtype | None = None) -> Any:
    """The model, in evaluation mode on the CPU, by an Auto class of transformers.

    `dtype` of its weights: that of the configuration where None. Unless they are converted, the weights lie in the
    mapped file. ArtifactError where configuration and weights are not those of one model that `cls` knows.
    """
    config = _config(saved)
    names = [name for name in saved.tensors.sizes if name.startswith(WEIGHTS)]
    weights = {name.removeprefix(WEIGHTS): saved.torch_tensor(name) for name in names}
    try:
        with torch.device("meta"):
            concrete = type(cls.from_config(config, trust_remote_code=False))
        with quiet():
            model, loading = concrete.from_pretrained(
                None, config=config, state_dict=weights, output_loading_info=True, local_files_only=True,
                **({} if dtype is None else {"dtype": dtype}),
            )  # fmt: skip
    except Exception as error:  # a configuration that is wrong may fail anywhere
        raise ArtifactError(f"the {saved.kind} artifact's model cannot be rebuilt: {_reason(error)}") from error
    wrong = sorted(loading["missing_keys"]) + sorted(loading["unexpected_keys"])
    if wrong:
        raise ArtifactError(f"the {saved.kind} artifact's weights are not those of its model: {wrong[0]!r}")
    return model.eval()


def unpack_tokenizer(saved: Artifact) -> Any:
    """The tokenizer, as transformers loads it. ArtifactError where its files are none."""
    names = [name for name in saved.tensors.sizes if name.startswith(TOKENIZER)]
    with tempfile.TemporaryDirectory(prefix="routebatch-") as directory:
        for name in names:
            file = name.removeprefix(TOKENIZER)
            content = saved.tensor(name, np.uint8, -1)
            if not _file_name(file) or content.nbytes > MAX_TOKENIZER_BYTES:
                raise ArtifactError(f"the {saved.kind} artifact holds a tokenizer's file that is none: {file[:80]!r}")
            Path(directory, file).write_bytes(content.tobytes())
        Path(directory, "config.json").write_bytes(orjson.dumps(_saved_config(saved)))
        try:
            with quiet():
                return transformers.AutoTokenizer.from_pretrained(
                    directory, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:  # tokenizers raises bare exceptions
            raise ArtifactError(f"the {saved.kind} artifact's tokenizer cannot be rebuilt: {_reason(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and remarks, which it writes to a terminal that is not its own."""
    theirs: Any = transformers.utils.logging
    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()


def _config(saved: Artifact) -> Any:
    values = dict(_saved_config(saved))
    try:
        with quiet():
            return transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    except Exception as error:  # as above
        raise ArtifactError(f"the {saved.kind} artifact's configuration is no model's: {_reason(error)}") from error


def _saved_config(saved: Artifact) -> dict[str, Any]:
    part = saved.metadata.get(KEY)
    config = part.get("config") if isinstance(part, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ArtifactError(f"the {saved.kind} artifact does not say which model it holds")
    return _plain(config)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return _without({key: value for key, value in values.items() if not key.startswith("_")})


def _without(values: dict[str, Any]) -> dict[str, Any]:
    """What is left out is so in the configurations of a model's parts as well."""
    return {
        key: _without(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key.removeprefix("_") not in _LEFT_OUT
    }


def _tidied(file: Path) -> bytes:
    content = file.read_bytes()
    if file.name != "tokenizer_config.json":
        return content
    return orjson.dumps(_plain(orjson.loads(content)), option=orjson.OPT_INDENT_2)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
