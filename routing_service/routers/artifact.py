"""The artifact of a fitted router: a directory of `model.safetensors` and `metadata.json`, and nothing executable.

The metadata names the kind of router, the format, and the sizes and the SHA-256 of the tensors; the router's own keys
(seed, data, metrics) stand beside them. Whatever is missing, cut off, changed or unknown is an ArtifactError.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from routing_service.errors import ArtifactError

FORMAT = 1
TENSORS = "model.safetensors"
METADATA = "metadata.json"
MAX_TENSOR_BYTES = 1 << 30
MAX_METADATA_BYTES = 1 << 20

Tensors = dict[str, npt.NDArray[Any]]

__all__ = ["Artifact", "ArtifactError", "kind_of", "read", "write"]


@dataclass(frozen=True, slots=True)
class Artifact:
    kind: str
    tensors: Tensors
    metadata: dict[str, Any]  # the router's own keys
    digest: str  # SHA-256 of the tensors' file, in hex

    def tensor(self, name: str, dtype: type[np.generic], *shape: int) -> npt.NDArray[Any]:
        """A tensor of that type and shape (-1: any length); ArtifactError if it is not, or is not finite."""
        array = self.tensors.get(name)
        if array is None:
            raise ArtifactError(f"the {self.kind} artifact lacks the tensor {name!r}")
        fits = array.ndim == len(shape) and all(want in (-1, is_) for want, is_ in zip(shape, array.shape, strict=True))
        if array.dtype != dtype or not fits:
            found = f"{array.dtype}{list(array.shape)}"
            raise ArtifactError(f"the {self.kind} artifact's {name!r} is {found}, not {np.dtype(dtype)}{list(shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactError(f"the {self.kind} artifact's {name!r} holds values that are not finite")
        return array


def write(directory: Path, kind: str, tensors: Tensors, metadata: dict[str, Any]) -> str:
    """Write an artifact and return its digest. It appears whole or not at all; an older artifact is replaced."""
    directory = Path(directory).resolve()
    content = save_tensors({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    digest = sha256(content).hexdigest()
    sizes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    head = {"kind": kind, "format": FORMAT, "sha256": digest, "sizes": sizes}
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_content(directory)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            temporary.chmod(0o755)
            (temporary / TENSORS).write_bytes(content)
            (temporary / METADATA).write_bytes(orjson.dumps(metadata | head, option=orjson.OPT_INDENT_2) + b"\n")
            _replace(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"cannot write the artifact {directory}: {error.strerror or error}") from None
    return digest


def read(directory: Path) -> Artifact:
    """Read and check an artifact."""
    directory = Path(directory)
    metadata = _metadata(directory)
    content = _bytes(directory / TENSORS, MAX_TENSOR_BYTES)
    digest = sha256(content).hexdigest()
    if digest != metadata.pop("sha256", None):
        raise ArtifactError(f"{directory / TENSORS} is damaged: its SHA-256 is not the one that {METADATA} names")
    try:
        tensors = load_tensors(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{directory / TENSORS} is no safetensors file: {error}") from None
    del metadata["format"]
    if metadata.pop("sizes", None) != {name: list(tensor.shape) for name, tensor in tensors.items()}:
        raise ArtifactError(f"{directory / METADATA}: the sizes are not those of {TENSORS}")
    return Artifact(metadata.pop("kind"), tensors, metadata, digest)


def kind_of(directory: Path) -> str:
    """The kind of router that the artifact holds, without reading its tensors."""
    kind: str = _metadata(Path(directory))["kind"]
    return kind


def _metadata(directory: Path) -> dict[str, Any]:
    file = directory / METADATA
    try:
        metadata = orjson.loads(_bytes(file, MAX_METADATA_BYTES))
    except orjson.JSONDecodeError as error:
        raise ArtifactError(f"{file} is not JSON: {error}") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("kind"), str):
        raise ArtifactError(f"{file} does not name the kind of router")
    if metadata.get("format") != FORMAT:
        raise ArtifactError(f"{file}: format {str(metadata.get('format'))[:80]} is not {FORMAT}, the one there is")
    return metadata


def _bytes(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read the router artifact: {file}: {error.strerror}") from None
    if len(content) > limit:
        raise ArtifactError(f"{file} is larger than {limit:,} bytes")
    return content


def _refuse_other_content(directory: Path) -> None:
    """A directory that holds something else is not an older artifact; replacing it would delete the user's files."""
    if directory.exists() and not directory.is_dir():
        raise ArtifactError(f"{directory} is not a directory")
    others = {file.name for file in directory.iterdir()} - {TENSORS, METADATA} if directory.exists() else set()
    if others:
        raise ArtifactError(f"{directory} holds other files ({sorted(others)[0]}): name an empty or a new directory")


def _replace(temporary: Path, directory: Path) -> None:
    if not directory.exists():
        temporary.rename(directory)
        return
    # Two renames cannot be one; a reader between a new file and an old one is stopped by the digest.
    for name in (TENSORS, METADATA):
        (temporary / name).replace(directory / name)
