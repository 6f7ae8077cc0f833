"""How a worker ends: it tells its pool to stop, and after a failure it ends even if what it waits for never comes.

The processes of a pool share the flag, and killing one of them spoils it for nobody.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest

from workers.shutdown import SharedFlag

FORK = get_context("fork")


def _look_for_ever(flag: SharedFlag, looking: Connection) -> None:
    looking.send(True)
    while True:
        flag.is_set()


def _until_set(flag: SharedFlag) -> None:
    while not flag.is_set():
        pass


def _ends(work: Callable[[SharedFlag], None], flag: SharedFlag) -> bool:
    """Whether a process that does the work comes to an end."""
    process = FORK.Process(target=work, args=(flag,), daemon=True)
    process.start()
    process.join(20)
    ended = process.exitcode == 0
    process.kill()
    process.join()
    return ended


def test_what_one_process_sets_others_see() -> None:
    flag = SharedFlag()
    assert not flag.is_set()
    assert _ends(SharedFlag.set, flag)
    assert flag.is_set()
    assert _ends(_until_set, flag)


def test_processes_that_are_killed_while_they_look_keep_it_from_nobody() -> None:
    flag = SharedFlag()
    for _ in range(10):
        receiver, sender = FORK.Pipe(duplex=False)
        with receiver, sender:
            process = FORK.Process(target=_look_for_ever, args=(flag, sender), daemon=True)
            process.start()
            receiver.recv()
            process.kill()
            process.join()
    assert _ends(SharedFlag.set, flag)
    assert _ends(_until_set, flag)


WAITS_FOR_EVER = """
import threading
from types import SimpleNamespace
from workers import shutdown
shutdown.SPARE_S = -shutdown.get_settings().dispatch.grace_s + 0.1
shutdown.EndAfterFailure(SimpleNamespace(steps=[])).close(SimpleNamespace(exitcode={code}))
threading.Event().wait({seconds})
"""


@pytest.mark.parametrize(("code", "seconds", "ends_with"), [(1, 60, 1), (None, 0.5, 0), (0, 0.5, 0)])
def test_a_worker_ends_by_force_only_after_it_failed(code: int | None, seconds: float, ends_with: int) -> None:
    program = WAITS_FOR_EVER.format(code=code, seconds=seconds)
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=50).returncode == ends_with
