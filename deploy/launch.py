"""Becomes one process of the stack: `python -I -S launch.py PROGRAMS.json NAME` replaces itself by that program.

On the way it takes the program's lock (held by the process itself, for as long as it or a child of it lives), gives up
root where asked, and asks the kernel to signal it when its parent dies. Standard library only, for it starts often and
runs without the site packages.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

LOCK_SECONDS = 2  # a killed server's own children hold its lock until they have noticed
PR_SET_PDEATHSIG = 1
EX_TEMPFAIL = 75


def hold_lock(path: str) -> None:
    """Take the lock file and let it pass through exec; exit with EX_TEMPFAIL where another process keeps it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.stderr.write(f"another process runs on this directory: {path} is locked\n")
                raise SystemExit(EX_TEMPFAIL) from None
            time.sleep(0.05)
        else:
            os.set_inheritable(handle, True)
            return


def die_with_parent(name: str) -> None:
    """Have the kernel send signal `name` when the parent dies. Linux only; elsewhere the listener cleans up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.Signals[f"SIG{name}"])


def become(program: dict[str, Any]) -> None:
    """Replace this process by the program. The order matters: changing the user forgets the death signal."""
    if program.get("lock"):
        hold_lock(program["lock"])
    if program.get("uid") is not None:
        os.setgroups([])
        os.setgid(program["uid"])
        os.setuid(program["uid"])
    if program.get("death_signal"):
        die_with_parent(program["death_signal"])
    os.execve(program["argv"][0], program["argv"], os.environ | program.get("env", {}))  # noqa: S606


if __name__ == "__main__":
    become(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))[sys.argv[2]])
