"""supervisord's event listener: keeps stack.json true, and leaves no orphans.

On every change of a process's state it writes the living processes into stack.json, and kills what a dead process left
in its process group (the pool of a killed Celery worker). When supervisord itself dies, its processes are signalled by
the kernel; the listener gives them a moment and kills the rest.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from deploy.layout import StackError, StateDir
from deploy.supervisor import DAEMON, Supervisor

GRACE_SECONDS = 3.0  # their database and broker are going away as well: there is little left to finish


def read_event(stream: TextIO) -> bool:
    """Read one event, whose content does not matter: the state is asked for. False at the end of the stream."""
    header = stream.readline()
    if not header:
        return False
    length = dict(part.split(":", 1) for part in header.split())["len"]
    return len(stream.read(int(length))) == int(length)


def group_lives(leader: int) -> bool:
    """Whether a process of the group is left; zombies count, so callers wait for a limited time."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kill_group(leader: int) -> None:
    """Kill what is left of a process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def refresh(supervisor: Supervisor, known: dict[str, int]) -> dict[str, int]:
    """Write the living processes to stack.json; end what those that are gone left behind."""
    pids = supervisor.pids()
    for name, pid in known.items():
        if pids.get(name) != pid:
            kill_group(pid)
    supervisor.state.update_stack(processes=pids)
    return pids


def clean_up(known: dict[str, int], grace: float = GRACE_SECONDS) -> None:
    """supervisord is gone: wait for its processes, which have been signalled, then kill them."""
    leaders = [pid for name, pid in known.items() if name != DAEMON]
    deadline = time.monotonic() + grace
    while any(group_lives(leader) for leader in leaders) and time.monotonic() < deadline:
        time.sleep(0.05)
    for leader in leaders:
        kill_group(leader)


def listen(state: StateDir, stdin: TextIO, stdout: TextIO) -> None:
    """Speak supervisord's protocol until it is gone: its stream ends, or nobody reads ours."""
    supervisor = Supervisor(state)
    known: dict[str, int] = {}
    with suppress(BrokenPipeError):
        while True:
            stdout.write("READY\n")
            stdout.flush()
            if not read_event(stdin):
                break
            with suppress(StackError):  # it is going away: the stream ends next
                known = refresh(supervisor, known)
            stdout.write("RESULT 2\nOK")
            stdout.flush()
    clean_up(known)
    state.update_stack(processes={})


if __name__ == "__main__":
    listen(StateDir.at(Path(sys.argv[1])), sys.stdin, sys.stdout)
