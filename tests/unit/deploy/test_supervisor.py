"""supervisord with programs that do nothing: restarts, orphans, order, and what stack.json says meanwhile."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.layout import StackError, StateDir, remove_sockets
from deploy.listener import read_event
from deploy.processes import Program
from deploy.supervisor import MARK, Entry, Supervisor, end_orphans, orphaned_processes, render

# a parent with a child, like a worker and its pool
PAIR = "sleep 300 & echo started; wait"


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def shell(script: str) -> Program:
    return Program(["/bin/sh", "-c", script])


ENTRIES = [
    Entry("below", "below", shell("trap 'echo below >> order; exit' TERM; while :; do sleep 0.05; done")),
    Entry("above", "above", shell("trap 'echo above >> order; exit' TERM; while :; do sleep 0.05; done")),
    Entry("pair", "pairs", shell(PAIR)),
]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    state = StateDir.make(tmp_path / "state")
    actual = Supervisor(state)
    actual.start(ENTRIES, os.environ | {MARK: str(state.root), "SECRET": "do not tell"}, foreground=True)
    yield actual
    actual.stop(20)
    end_orphans(state.root)
    remove_sockets(state.root)


def started(supervisor: Supervisor, *names: str) -> dict[str, int]:
    """Start the groups of `names`; the pids in stack.json once it names them all."""
    for entry in ENTRIES:
        if entry.name in names:
            supervisor.start_group(entry.group)

    def written() -> dict[str, int]:
        return dict(supervisor.state.read_stack().get("processes", {}))

    eventually(lambda: set(names) <= written().keys())
    return written()


def test_a_killed_process_is_restarted_and_leaves_no_orphan(supervisor: Supervisor) -> None:
    first = started(supervisor, "pair")["pair"]
    (child,) = psutil.Process(first).children()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor.state.read_stack()["processes"].get("pair", first) != first)
    eventually(lambda: gone(child))
    assert supervisor.info()["pair"]["pid"] == supervisor.state.read_stack()["processes"]["pair"]


def test_groups_stop_in_the_reverse_order(supervisor: Supervisor) -> None:
    pids = started(supervisor, "below", "above")
    supervisor.stop(20)
    assert (supervisor.state.root / "order").read_text().split() == ["above", "below"]
    assert not supervisor.running
    assert not any(psutil.pid_exists(pid) and not gone(psutil.Process(pid)) for pid in pids.values())


def test_nothing_outlives_a_killed_supervisor(supervisor: Supervisor) -> None:
    pids = started(supervisor, "below", "above", "pair")
    processes = [psutil.Process(pid) for name, pid in pids.items() if name != "supervisord"]
    processes += psutil.Process(pids["pair"]).children()
    os.kill(pids["supervisord"], signal.SIGKILL)
    eventually(lambda: all(gone(process) for process in processes))
    eventually(lambda: orphaned_processes(supervisor.state.root) == [])
    assert not supervisor.running


def test_neither_the_configuration_nor_the_programs_hold_the_environment(supervisor: Supervisor) -> None:
    for path in (supervisor.state.supervisor_config, supervisor.state.programs):
        assert "do not tell" not in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_running_supervisor_is_found_by_its_directory(supervisor: Supervisor) -> None:
    again = Supervisor(StateDir.at(supervisor.state.root))
    assert again.running
    assert set(again.info()) == {entry.name for entry in ENTRIES}
    with pytest.raises(StackError, match="refuses"):
        again.start_group("no-such-group")


def test_a_directory_without_supervisor_answers_with_a_clear_error(tmp_path: Path) -> None:
    idle = Supervisor(StateDir.make(tmp_path / "idle"))
    assert not idle.running
    with pytest.raises(StackError, match="does not answer"):
        idle.info()
    remove_sockets(idle.state.root)


def test_percent_signs_of_an_interpreter_path_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/a 100%/python")
    state = StateDir.make(tmp_path / "state")
    text = render(state, ENTRIES)
    remove_sockets(state.root)
    assert "command='/a 100%%/python' -I -S" in text


def test_an_event_is_read_whole_and_the_end_is_seen() -> None:
    stream = io.StringIO("ver:3.0 eventname:PROCESS_STATE_EXITED len:5\nabcde")
    assert read_event(stream)
    assert not read_event(stream)
