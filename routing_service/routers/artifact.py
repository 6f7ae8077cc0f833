"""The artifact of a fitted router: a directory of `model.safetensors` and `metadata.json`, and nothing executable.

The metadata names the kind of router, the format, and the sizes and the SHA-256 of the tensors; the router's own keys
(seed, data, metrics) stand beside them. Whatever is missing, cut off, changed or unknown is an ArtifactError.

Tensors are written from where they lie and read when they are taken, from the mapped file: an artifact may be larger
than memory. numpy has no bfloat16; a tensor of it is written from torch and read by `Artifact.torch_tensor`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from routing_service.errors import ArtifactError
from routing_service.router_versions.artifact_store import METADATA, TENSORS

if TYPE_CHECKING:
    import torch

FORMAT = 1
MAX_TENSOR_BYTES = 1 << 36  # 64 GiB; an 8-billion-parameter model is 16
MAX_METADATA_BYTES = 1 << 20
NUMPY_TYPES = {"F64", "F32", "F16", "I64", "U64", "I32", "U32", "I16", "U16", "I8", "U8", "BOOL", "C64"}

Array = npt.NDArray[Any]
Tensors = dict[str, Any]  # numpy arrays or torch tensors, by name
Part = TypeVar("Part")

__all__ = ["METADATA", "TENSORS", "Artifact", "ArtifactError", "Tensors", "kind_of", "parsed", "read", "write"]


class SavedTensors(Mapping[str, Array]):
    """The tensors of a safetensors file by name, each read when it is taken. `sizes` are their shapes."""

    def __init__(self, file: Path) -> None:
        """ArtifactError unless the file is a whole safetensors file."""
        self.file = file
        self._version = _version(file)
        try:
            opened: Any = safe_open(file, framework="np")
        except (SafetensorError, ValueError) as error:
            raise ArtifactError(f"{file} is no safetensors file: {error}") from None
        self._open = opened
        self.sizes: dict[str, list[int]] = {name: opened.get_slice(name).get_shape() for name in sorted(opened.keys())}

    def __getitem__(self, name: str) -> Array:
        if name not in self.sizes:
            raise KeyError(name)
        kind = self._open.get_slice(name).get_dtype()
        if kind not in NUMPY_TYPES:  # asked for, as some packages teach numpy more types for a whole process
            raise ArtifactError(f"{self.file}: {name!r} is {kind}, which numpy does not have")
        array: Array = self._open.get_tensor(name)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def for_torch(self) -> Any:
        """The same file, for torch: its tensors lie in the mapped file, private to this process when written to."""
        opened = safe_open(self.file, framework="pt")
        self.require(self._version)
        return opened

    def require(self, version: tuple[int, ...]) -> None:
        """ArtifactError unless the file is still this one: it may be replaced while it is read."""
        if version != _version(self.file):
            raise ArtifactError(f"{self.file} changed while it was read: read it again")


@dataclass(frozen=True, slots=True)
class Artifact:
    kind: str
    tensors: SavedTensors
    metadata: dict[str, Any]  # the router's own keys
    digest: str  # SHA-256 of the tensors' file, in hex

    def tensor(self, name: str, dtype: type[np.generic], *shape: int) -> Array:
        """A tensor of that type and shape (-1: any length); ArtifactError if it is not, or is not finite."""
        self._require(name)
        array = self.tensors[name]
        fits = array.ndim == len(shape) and all(want in (-1, is_) for want, is_ in zip(shape, array.shape, strict=True))
        if array.dtype != dtype or not fits:
            actual = f"{array.dtype}{list(array.shape)}"
            raise ArtifactError(f"the {self.kind} artifact's {name!r} is {actual}, not {np.dtype(dtype)}{list(shape)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactError(f"the {self.kind} artifact's {name!r} holds values that are not finite")
        return array

    def torch_tensor(self, name: str) -> torch.Tensor:
        """A tensor of any type and shape for torch, on the CPU; ArtifactError if it lacks or is not finite."""
        self._require(name)
        tensor: torch.Tensor = self.tensors.for_torch.get_tensor(name)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArtifactError(f"the {self.kind} artifact's {name!r} holds values that are not finite")
        return tensor

    def _require(self, name: str) -> None:
        if name not in self.tensors.sizes:
            raise ArtifactError(f"the {self.kind} artifact lacks the tensor {name!r}")


def parsed(kind: type[Part], values: Any, what: str) -> Part:
    """A part of the metadata as a dataclass: exactly its fields, of their types and within the bounds that their
    annotations name. ArtifactError says what of `what` is wrong."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(values, dict) or set(values) != set(names):
        raise ArtifactError(f"the {what} is not {', '.join(sorted(names))}")
    try:
        return TypeAdapter(kind).validate_json(orjson.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ArtifactError(f"the {what} cannot be used: {place}: {first['msg']}") from None
    except (TypeError, orjson.JSONEncodeError) as error:
        raise ArtifactError(f"the {what} cannot be used: {error}") from None


def write(directory: Path, kind: str, tensors: Mapping[str, Any], metadata: dict[str, Any]) -> str:
    """Write an artifact and return its digest. It appears whole or not at all; an older artifact is replaced."""
    directory = Path(directory).resolve()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_content(directory)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            temporary.chmod(0o755)
            sizes = _write_tensors(temporary / TENSORS, tensors)
            digest = _digest(temporary / TENSORS)
            head = {"kind": kind, "format": FORMAT, "sha256": digest, "sizes": sizes}
            (temporary / METADATA).write_bytes(orjson.dumps(metadata | head, option=orjson.OPT_INDENT_2) + b"\n")
            _replace(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"cannot write the artifact {directory}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ArtifactError(f"cannot write the artifact {directory}: {error}") from None
    return digest


def read(directory: Path) -> Artifact:
    """Read and check an artifact. All of its bytes are checked; its tensors are read when they are taken."""
    directory = Path(directory)
    metadata = _metadata(directory)
    file = directory / TENSORS
    version = _version(file)
    digest = _digest(file)
    if digest != metadata.pop("sha256", None):
        raise ArtifactError(f"{file} is damaged: its SHA-256 is not the one that {METADATA} names")
    tensors = SavedTensors(file)
    tensors.require(version)
    del metadata["format"]
    if metadata.pop("sizes", None) != tensors.sizes:
        raise ArtifactError(f"{directory / METADATA}: the sizes are not those of {TENSORS}")
    return Artifact(metadata.pop("kind"), tensors, metadata, digest)


def kind_of(directory: Path) -> str:
    """The kind of router that the artifact holds, without reading its tensors."""
    kind: str = _metadata(Path(directory))["kind"]
    return kind


def _write_tensors(file: Path, tensors: Mapping[str, Any]) -> dict[str, list[int]]:
    """Write the file and return the shapes in it."""
    # Only addresses are handed over: the arrays behind them must stay alive until the file is written.
    held = {name: _contiguous(tensor) for name, tensor in tensors.items()}
    specs = {name: _spec(tensor) for name, tensor in held.items()}
    serialize_file(specs, file)
    file.chmod(0o644)  # safetensors writes for the owner alone
    return {name: list(tensor.shape) for name, tensor in held.items()}


def _contiguous(tensor: Array | torch.Tensor) -> Array | torch.Tensor:
    if isinstance(tensor, np.ndarray):
        return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("<"), order="C")
    return tensor.detach().cpu().contiguous()


def _spec(tensor: Array | torch.Tensor) -> TensorSpec:
    if isinstance(tensor, np.ndarray):
        kind, address = tensor.dtype.name, tensor.ctypes.data
    else:
        kind, address = str(tensor.dtype).removeprefix("torch."), tensor.data_ptr()
    return TensorSpec(dtype=kind, shape=tensor.shape, data_ptr=address, data_len=tensor.nbytes)


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, error) from None


def _version(file: Path) -> tuple[int, ...]:
    """What tells this file from one that replaces it. ArtifactError where there is none, or too large a one."""
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from None
    if status.st_size > MAX_TENSOR_BYTES:
        raise ArtifactError(f"{file} is larger than {MAX_TENSOR_BYTES:,} bytes")
    return status.st_ino, status.st_mtime_ns, status.st_size


def _unreadable(file: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"cannot read the router artifact: {file}: {error.strerror}")


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
        raise _unreadable(file, error) from None
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
