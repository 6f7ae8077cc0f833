"""Where a stack keeps its things: the state directory and its files, its locks, and a directory for its sockets.

A socket's path may hold about 107 bytes. Where the state directory is too deep for that, the sockets live in a short
hashed directory instead, which only its owner may enter. `StackError` is the one error of this package.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET_PATH_LIMIT = 100
# supervisord makes its socket under a temporary name, `supervisor.sock.PID`: the longest of them all
LONGEST_SOCKET_NAME = len("/supervisor.sock.4194304")
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+@-]+")


class StackError(Exception):
    """The stack cannot do what was asked. The message is for the person at the terminal: it names the process or file,
    says what to do, and may end in a log's tail."""


@dataclass(frozen=True)
class StateDir:
    """A stack's directory (mode 0700) and the paths in it."""

    root: Path

    @classmethod
    def make(cls, path: Path | None = None) -> StateDir:
        """Open the directory, making it and what it needs inside."""
        state = cls.at(path)
        private_dir(state.root)
        private_dir(state.logs)
        private_dir(state.temporary)
        return state

    @classmethod
    def at(cls, path: Path | None = None) -> StateDir:
        """Name the directory without touching the disk."""
        root = (path or default_state_dir()).expanduser().absolute()
        if any(ord(letter) < 32 for letter in str(root)):
            raise StackError(f"{str(root)!r} holds control characters: choose another state directory")
        return cls(root)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def artifacts(self) -> Path:
        """The artifact store, unless another one is configured."""
        return self.root / "artifacts"

    @property
    def temporary(self) -> Path:
        """The processes' temporary files: what a killed one leaves is removed with it when the stack stops."""
        return self.root / "tmp"

    @property
    def sockets(self) -> Path:
        return socket_dir(self.root)

    @property
    def supervisor_socket(self) -> Path:
        return self.sockets / "supervisor.sock"

    @property
    def supervisor_config(self) -> Path:
        return self.root / "supervisord.conf"

    @property
    def supervisor_lock(self) -> Path:
        return self.root / "supervisord.lock"

    @property
    def programs(self) -> Path:
        return self.root / "programs.json"

    @property
    def stack_file(self) -> Path:
        return self.root / "stack.json"

    @property
    def secrets_file(self) -> Path:
        return self.root / "secrets.json"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The end of a process's log, for an error message."""
        try:
            text = self.log(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def read_stack(self) -> dict[str, Any]:
        """What stack.json says; empty without one."""
        return _read_json(self.stack_file)

    def update_stack(self, **changes: Any) -> dict[str, Any]:
        """Change keys of stack.json; the `up` command and the listener both do, hence the lock."""
        with locked(self.root / "stack.lock"):
            content = self.read_stack() | changes
            write_private(self.stack_file, json.dumps(content, indent=2) + "\n")
        return content

    def read_secrets(self) -> dict[str, str]:
        return _read_json(self.secrets_file)

    def write_secrets(self, secrets: dict[str, str]) -> None:
        write_private(self.secrets_file, json.dumps(secrets, indent=2) + "\n")


def default_state_dir() -> Path:
    """`$ROUTEBATCH_STATE_DIR`, else `$XDG_STATE_HOME/routebatch`, else `~/.local/state/routebatch`."""
    if given := os.environ.get("ROUTEBATCH_STATE_DIR"):
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "routebatch"


def private_dir(path: Path) -> Path:
    """Make `path` a directory that only we may enter, and refuse one that belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.geteuid():
        raise StackError(f"{path} is a link or belongs to another user: choose another state directory")
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


def hashed_dir(root: Path, base: Path | None = None) -> Path:
    """The short directory that stands in for a deep `root`; the same for every call of the same user."""
    if base is None:
        # not $TMPDIR first: `up` and `down` may be called with different ones, and must find the same sockets
        base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())  # noqa: S108
    digest = hashlib.sha256(f"{os.geteuid()}:{root}".encode()).hexdigest()[:16]
    return base / f"routebatch-{digest}"


def socket_dir(root: Path) -> Path:
    """The directory for the sockets of `root`, made if need be."""
    own = root / "run"
    # a path with unusual letters would need quoting of its own in every address it becomes part of
    if PLAIN_PATH.fullmatch(str(own)) and len(os.fsencode(own)) + LONGEST_SOCKET_NAME <= SOCKET_PATH_LIMIT:
        return private_dir(own)
    return private_dir(hashed_dir(root))


def remove_sockets(root: Path) -> None:
    """Remove the stand-in for a deep `root`. What lies under `root` itself is its owner's to remove."""
    shutil.rmtree(hashed_dir(root), ignore_errors=True)


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once, readable by its owner only; a reader never sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp's mode is 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`. Without `wait`, yields False where another process holds it."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock file `path`."""
    if not path.exists():
        return False
    with locked(path, wait=False) as free:
        return not free


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise StackError(f"{path} is damaged ({error}): remove it and start again") from error
    return content if isinstance(content, dict) else {}
