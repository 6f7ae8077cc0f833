"""supervisord as the stack's process manager: its configuration, its start and stop, and what it says.

The configuration holds no secret and no path that could need quoting: supervisord runs in the state directory, paths
in it are relative, secrets come by inherited environment, and command lines stand in programs.json.

Every process of a stack carries its state directory in the variable ROUTEBATCH_STACK, and nothing else sets it: so
processes whose supervisord is gone are found (`orphaned_processes`) and ended.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import Error, Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from deploy.layout import StackError, StateDir, is_locked, write_private
from deploy.processes import LAUNCHER, Program, launch_argv, write_programs

MARK = "ROUTEBATCH_STACK"
DAEMON = "supervisord"
LISTENER = "listener"
MIN_FILES = 8192  # open files a process may have, where the system allows it: a dispatch worker holds many sockets

HEAD = """\
[supervisord]
nodaemon=true
silent=true
nocleanup=true
logfile=logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
pidfile=supervisord.pid
childlogdir=logs
minfds={min_files}
minprocs=50
{user}

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[eventlistener:{listener}]
command={command}
events=PROCESS_STATE
buffer_size=1000
startretries=1000
stopwaitsecs=2
stdout_logfile=NONE
stderr_logfile=logs/{listener}.log
stderr_logfile_maxbytes=1MB
stderr_logfile_backups=1
"""

# startretries: retries come ever later (1 s, 2 s, ...); a thousand of them last days
PROGRAM = """
[program:{name}]
command={command}
autostart=false
autorestart=true
startsecs={start_seconds}
startretries=1000
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""

GROUP = """
[group:{name}]
programs={programs}
priority={priority}
"""


@dataclass(frozen=True)
class Entry:
    """A program under supervision. Groups stop one after the other, the last of the list first."""

    name: str
    group: str
    program: Program
    stop_signal: str = "TERM"  # to the process alone: a worker ends its own children
    stop_seconds: int = 10  # then its whole process group is killed
    start_seconds: int = 1  # one that ends sooner is restarted with growing delays


class Supervisor:
    """The supervisord of one state directory: started here, or found running."""

    def __init__(self, state: StateDir) -> None:
        self.state = state
        self.process: subprocess.Popen[bytes] | None = None  # where this process started it

    @property
    def running(self) -> bool:
        """Whether a supervisord lives: it holds its lock as long as it does."""
        return is_locked(self.state.supervisor_lock)

    def start(self, entries: Sequence[Entry], env: Mapping[str, str], *, foreground: bool) -> None:
        """Start supervisord with nothing but the listener running. In the foreground it ends with this process."""
        daemon = Program(
            [sys.executable, "-m", "supervisor.supervisord", "--configuration", "supervisord.conf"],
            lock=str(self.state.supervisor_lock),
            death_signal="TERM" if foreground else None,
        )
        listener = Program([sys.executable, "-m", "deploy.listener", str(self.state.root)], death_signal=None)
        programs = {entry.name: entry.program for entry in entries}
        write_programs(self.state.programs, {**programs, DAEMON: daemon, LISTENER: listener})
        write_private(self.state.supervisor_config, render(self.state, entries))
        self.state.supervisor_socket.unlink(missing_ok=True)
        with self.state.log("supervisord-start").open("wb") as log:
            self.process = subprocess.Popen(
                launch_argv(self.state.programs, DAEMON),
                cwd=self.state.root,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the stack in order
            )
        self._wait_answering()

    def _wait_answering(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.call("getState")
            except StackError:
                if (self.process and self.process.poll() is not None) or time.monotonic() > deadline:
                    tail = self.state.log_tail("supervisord-start") or self.state.log_tail("supervisord")
                    raise StackError(f"supervisord did not start:\n{tail}") from None
                time.sleep(0.02)
            else:
                return

    def call(self, method: str, *arguments: object) -> Any:
        """One XML-RPC call; StackError where nobody answers."""
        transport = SupervisorTransport(None, None, f"unix://{self.state.supervisor_socket}")
        try:
            with ServerProxy("http://127.0.0.1", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except Fault as fault:
            raise StackError(f"supervisord refuses {method}{arguments}: {fault.faultString}") from fault
        except (OSError, Error) as error:
            raise StackError(f"supervisord does not answer: {error}") from error

    def start_group(self, group: str) -> None:
        """Start a group's processes without waiting for them."""
        self.call("startProcessGroup", group, False)

    def info(self) -> dict[str, dict[str, Any]]:
        """What supervisord says of each process, by name (not of the listener)."""
        entries = cast(list[dict[str, Any]], self.call("getAllProcessInfo"))
        return {entry["name"]: entry for entry in entries if entry["name"] != LISTENER}

    def pids(self) -> dict[str, int]:
        """The living processes, supervisord itself included."""
        pids = {name: int(entry["pid"]) for name, entry in self.info().items() if entry["pid"]}
        return pids | {DAEMON: int(self.call("getPID"))}

    def stop(self, seconds: float) -> None:
        """Stop everything in order and wait; what is still there after `seconds` loses its supervisord by SIGKILL."""
        try:
            pid = int(self.call("getPID"))
            self.call("shutdown")
        except StackError:
            pid_of_file = self._pid_of_file()
            if not self.running or pid_of_file is None:
                self._reap()
                return
            pid = pid_of_file
            os.kill(pid, signal.SIGTERM)
        if not self._wait_gone(seconds):
            os.kill(pid, signal.SIGKILL)
            self._wait_gone(10)
        self._reap()

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()

    def _pid_of_file(self) -> int | None:
        try:
            pid = int((self.state.root / "supervisord.pid").read_text(encoding="ascii"))
            command = psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if "supervisor.supervisord" in command else None

    def _wait_gone(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def render(state: StateDir, entries: Sequence[Entry]) -> str:
    """The text of supervisord.conf."""
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = HEAD.format(
        min_files=MIN_FILES if hard_limit == resource.RLIM_INFINITY else min(MIN_FILES, hard_limit),
        user="user=root" if os.geteuid() == 0 else "",  # said aloud, else supervisord warns
        socket=state.supervisor_socket,
        listener=LISTENER,
        command=_command(LISTENER),
    )
    for entry in entries:
        text += PROGRAM.format(**vars(entry), command=_command(entry.name))
    groups = list(dict.fromkeys(entry.group for entry in entries))
    for place, group in enumerate(groups):
        members = ",".join(entry.name for entry in entries if entry.group == group)
        text += GROUP.format(name=group, programs=members, priority=100 + place)
    return text


def _command(name: str) -> str:
    """The command line as supervisord wants it: split like a shell's, `%` doubled."""
    for path in (sys.executable, str(LAUNCHER)):
        if any(mark in path for mark in (" #", " ;", "\n")):
            raise StackError(f"{path}: supervisord cannot run a program under a path with ' #' or ' ;'")
    return shlex.join(launch_argv_relative(name)).replace("%", "%%")


def launch_argv_relative(name: str) -> list[str]:
    """launch_argv with the table as seen from the state directory, where supervisord runs."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), "programs.json", name]


def orphaned_processes(root: Path) -> list[psutil.Process]:
    """The living processes that a stack on `root` started (zombies and other users' processes have no environment)."""
    orphans = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            mark = process.environ().get(MARK)
        except (psutil.Error, OSError):
            continue
        if mark == str(root):
            orphans.append(process)
    return orphans


def end_orphans(root: Path, grace: float = 5.0) -> int:
    """End what a stack on `root` left behind: asked first, then killed. Returns how many there were."""
    processes = orphaned_processes(root)
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
