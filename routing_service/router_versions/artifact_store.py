"""The artifact store: fitted routers by the SHA-256 of their files, and each process's cache of them.

An artifact is two files. In the store, `settings.artifact_url` (a directory, a shared volume or S3, by fsspec), they
lie under the artifact's hash; a process that uses them copies them into its user's cache first. The hash is that of
the line that `sha256sum` prints for each, `metadata.json` before `model.safetensors`. Whatever is fetched or found in
the cache is held against it, so what is cut off, changed or half there never counts.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from routing_service.errors import ArtifactError, ConfigurationError
from routing_service.settings import Settings

TENSORS = "model.safetensors"
METADATA = "metadata.json"
FILES = (METADATA, TENSORS)
KEPT = 8  # artifacts in a cache: the running versions, those before them, and some that are compared
ABANDONED_S = 86_400  # a copy that was not finished for so long never will be


class ArtifactStore:
    """Artifacts under a URL that fsspec can read, cached in a directory."""

    def __init__(self, url: str, cache: Path) -> None:
        """ConfigurationError for a URL of a kind that is unknown, or whose package is not installed."""
        import fsspec

        self._shown = re.sub(r"//[^/@]*@", "//", url)  # an address may hold a password
        self._cache = cache
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"artifact_url: {self._shown} cannot be used: {error}") from None

    @classmethod
    def of(cls, settings: Settings) -> ArtifactStore:
        """The configured store. ConfigurationError where none is."""
        if settings.artifact_url is None:
            raise ConfigurationError(
                "no artifact store is configured: name a directory or an s3:// address in ROUTEBATCH_ARTIFACT_URL"
            )
        return cls(settings.artifact_url, settings.artifact_cache or default_cache())

    def put(self, directory: Path) -> str:
        """Copy an artifact into the store; its SHA-256, in hex. The same content twice is one, and mends the first.

        Its metadata is written last and each file at once: without both there is no artifact. ArtifactError.
        """
        sha256 = content_hash(directory)
        with self._errors(f"cannot be written: {sha256}"):
            self._fs.makedirs(self._path(sha256), exist_ok=True)
            for name in reversed(FILES):
                self._put_file(Path(directory) / name, f"{self._path(sha256)}/{name}")
        return sha256

    def fetch(self, sha256: str) -> Path:
        """The directory of that artifact in the cache, copied there and checked unless it is there. ArtifactError."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ArtifactError(f"{sha256[:80]!r} is no SHA-256 of an artifact")
        cached = self._cache / sha256
        try:
            if not _holds(cached, sha256):
                self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._copy(sha256, cached)
            os.utime(cached)
            self._forget(cached)
        except OSError as error:
            raise ArtifactError(f"the artifact cache {self._cache} cannot be used: {error.strerror or error}") from None
        return cached

    def _copy(self, sha256: str, cached: Path) -> None:
        """Several processes may do so at once: the first one's copy counts, and what was there and is damaged goes."""
        with tempfile.TemporaryDirectory(prefix=f".{sha256}.", dir=self._cache) as temporary:
            fetched = Path(temporary) / "new"
            fetched.mkdir()
            with self._errors(f"has no artifact {sha256} that can be read"):
                for name in FILES:
                    self._fs.get_file(f"{self._path(sha256)}/{name}", str(fetched / name))
            if not _holds(fetched, sha256):
                raise ArtifactError(f"the artifact store {self._shown} holds a damaged artifact {sha256}")
            if cached.exists() and not _holds(cached, sha256):
                cached.rename(Path(temporary) / "damaged")
            try:
                fetched.rename(cached)
            except OSError:  # another process was first
                if not _holds(cached, sha256):
                    raise

    def _put_file(self, source: Path, target: str) -> None:
        """An object of a bucket appears whole; a file of a directory does when it is renamed."""
        if "file" not in self._fs.protocol:
            self._fs.put_file(str(source), target)
            return
        temporary = f"{target}.{uuid.uuid4().hex}"
        try:
            self._fs.put_file(str(source), temporary)
            Path(temporary).replace(target)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _path(self, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{sha256}"

    def _forget(self, used: Path) -> None:
        """Keep the artifacts that were used last. A process that has one open keeps it open."""
        others = [path for path in self._cache.iterdir() if path != used]
        whole = sorted((path for path in others if not path.name.startswith(".")), key=_used_at, reverse=True)
        oldest = time.time() - ABANDONED_S
        abandoned = [path for path in others if path.name.startswith(".") and _used_at(path) < oldest]
        for path in [*whole[KEPT - 1 :], *abandoned]:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except ArtifactError:
            raise
        except Exception as error:  # each file system has errors of its own
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ArtifactError(f"the artifact store {self._shown} {what} ({reason})") from error


def default_cache() -> Path:
    """Beside the cache of vectors, in the user's cache directory."""
    from routing_service.embedding.cache import default_directory

    return default_directory() / "artifacts"


def content_hash(directory: Path) -> str:
    """The SHA-256 of an artifact's files, in hex. ArtifactError where one of them cannot be read."""
    lines = [f"{_file_hash(Path(directory) / name)}  {name}\n" for name in FILES]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"cannot read the router artifact: {file}: {error.strerror}") from None


def _holds(directory: Path, sha256: str) -> bool:
    try:
        return content_hash(directory) == sha256
    except ArtifactError:
        return False


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0
