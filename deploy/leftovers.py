"""Finds and ends processes of a stack whose supervisord is gone.

Every process of a stack carries its state directory in the variable ROUTEBATCH_STACK; nothing else sets it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil

MARK = "ROUTEBATCH_STACK"


def leftover_processes(root: Path) -> list[psutil.Process]:
    """The living processes that a stack on `root` started (zombies and other users' processes have no environment)."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            mark = process.environ().get(MARK)
        except (psutil.Error, OSError):
            continue
        if mark == str(root):
            found.append(process)
    return found


def end_leftovers(root: Path, grace: float = 5.0) -> int:
    """End what a stack on `root` left behind: asked first, then killed. Returns how many there were."""
    processes = leftover_processes(root)
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=grace)
    return len(processes)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
