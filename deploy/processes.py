"""The processes of the stack: one table that `routebatch up` runs, and that compose.yaml is held against by a test.

Hosts, ports and secrets travel by environment, so that the command lines are the same on one machine and on several.
How each process is launched stands in programs.json, which launch.py reads: it may import nothing of ours.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.layout import write_private

FLOWER_USER = "routebatch"
CELERY = ("celery", "--app", "workers.app")
LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Process:
    """One of our own processes. `service` is its name in compose.yaml; groups stop one after the other."""

    name: str
    argv: tuple[str, ...]
    group: str
    service: str
    stop_seconds: int = 10  # after which it is killed


def _worker(name: str, queues: str, concurrency: int, stop_seconds: int) -> Process:
    argv = [*CELERY, "worker", "--queues", queues, "--concurrency", str(concurrency)]
    # nothing here uses gossip; without mingle a worker is ready a second sooner
    argv += ["--hostname", f"{name}@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    return Process(name, tuple(argv), group="workers", service=f"{name}-worker", stop_seconds=stop_seconds)


MIGRATE = Process("migrate", ("routebatch", "migrate"), group="setup", service="migrate")

API = Process("api", ("routebatch", "api"), group="door", service="api")

# A worker that is told to stop finishes what it holds: calls in flight for dispatch, a range of lines for score.
WORKERS = (
    _worker("score", "score,ingest,default", concurrency=2, stop_seconds=30),
    _worker("dispatch", "dispatch", concurrency=2, stop_seconds=60),
    _worker("train", "train", concurrency=1, stop_seconds=15),
)

# The schedule is code, so beat keeps it in memory: no state file to go stale, no pid file to be in the way.
BEAT = Process(
    "beat",
    (*CELERY, "beat", "--scheduler", "celery.beat:Scheduler", "--pidfile=", "--loglevel", "INFO"),
    group="edge",
    service="beat",
)

FLOWER = Process("flower", (*CELERY, "flower"), group="edge", service="flower")

PROCESSES = (API, *WORKERS, BEAT, FLOWER)


def resolve(argv: tuple[str, ...]) -> list[str]:
    """The same command line with its program found beside this interpreter, else on PATH."""
    beside = Path(sys.executable).parent / argv[0]
    program = str(beside) if beside.is_file() else shutil.which(argv[0])
    return [program or argv[0], *argv[1:]]


@dataclass(frozen=True)
class Program:
    """A command line and what launch.py does before it becomes that command.

    `argv[0]` is absolute; `lock` is a file the process holds while it lives; `uid` is whom root turns into;
    `death_signal` is sent when the parent dies (None: the process outlives it).
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    lock: str | None = None
    uid: int | None = None
    death_signal: str | None = "TERM"


def write_programs(path: Path, programs: Mapping[str, Program]) -> None:
    """Write the table for launch.py."""
    write_private(path, json.dumps({name: asdict(program) for name, program in programs.items()}, indent=2) + "\n")


def launch_argv(programs_file: Path, name: str) -> list[str]:
    """The command that becomes program `name` of the table."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(programs_file), name]
