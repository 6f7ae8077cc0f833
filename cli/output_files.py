"""Files that commands write: checked before anything is spent, and never met half-written."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

STDOUT = Path("-")


def check_paths(
    output: Path | None, errors: Path | None, source: str | None = None, *, printing_json: bool = False
) -> None:
    """Refuse, before anything is spent, paths that cannot be written or would destroy each other."""
    wanted = [path for path in (output, errors) if path is not None and path != STDOUT]
    for path in wanted:
        if path.is_dir():
            raise click.UsageError(f"{path} is a directory: name a file")
        if not path.absolute().parent.is_dir():
            raise click.UsageError(f"{path}: there is no directory {path.parent}; make it first")
        if source and path.exists() and os.path.exists(source) and path.samefile(source):  # noqa: PTH110
            raise click.UsageError(f"{path} is the input; write the results elsewhere")
    if printing_json and STDOUT in (output, errors):
        raise click.UsageError("--json prints on stdout: name a file for the results")
    if output is not None and errors is not None and output.absolute() == errors.absolute():
        raise click.UsageError("--output and --errors name the same file: results and errors need a file each")


def check_artifact(directory: Path) -> None:
    """Refuse, before anything is fitted or read, a directory that a router must not be written to."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "metadata.json").is_file():
        raise click.UsageError(f"{directory} holds something that is no router: name an empty or a new directory")


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream that becomes the file at `path` at its end, so that nobody meets half of it. ClickException if the file
    cannot be written."""
    try:
        with _stream(path) as stream:
            yield stream
    except BrokenPipeError:
        raise  # click ends the command quietly: whoever read its output has seen enough
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    if path == STDOUT:
        stream = sys.stdout.buffer
        yield stream
        stream.flush()
        return
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("wb") as stream:
            yield stream
        return
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        temporary.chmod(_mode(path))
        temporary.replace(path.resolve())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """The mode the file has, or the one that a new file would get (mkstemp's is stricter)."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
