"""Postgres refuses to run as root, and as a uid without a name: a user namespace makes it "nobody" there.

Where namespaces are refused, root starts it as another uid instead, which then owns its files.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deploy.layout import StackError, hashed_dir

NOBODY = 65534


@dataclass(frozen=True)
class Isolation:
    """`prefix` goes before the command line; `uid`, where set, is whom the process turns into, and owns its files."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None

    def demote(self) -> dict[str, object]:
        """The same for `subprocess`: keyword arguments that run a command in this isolation."""
        return {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}


@cache
def isolation() -> Isolation:
    """What this user needs to run Postgres. Asks the system once."""
    root = os.geteuid() == 0
    if not root and _has_name(os.geteuid()):
        return Isolation()
    prefix = namespace_prefix()
    return Isolation(prefix=prefix) if prefix or not root else Isolation(uid=NOBODY)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def namespace_prefix() -> tuple[str, ...]:
    """The `unshare` command under which we are not root, though the files we make stay root's; empty if refused."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
    try:
        done = subprocess.run([*prefix, "id", "-u"], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ()
    return prefix if done.returncode == 0 and done.stdout.strip() == str(NOBODY) else ()


def foreign_dir(root: Path, uid: int) -> Path:
    """A directory for the files of `uid`, who cannot enter a private `root`. /var/tmp outlives a reboot."""
    base = hashed_dir(root, Path("/var/tmp"))  # noqa: S108
    base.mkdir(mode=0o711, exist_ok=True)
    if base.is_symlink() or base.stat().st_uid != os.geteuid():
        raise StackError(f"{base} is a link or belongs to another user: remove it")
    base.chmod(0o711)
    for name in ("data", "run"):
        path = base / name
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, uid, uid)
    return base
