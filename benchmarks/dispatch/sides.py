"""The sides of `benchmarks.dispatch`, each as processes of its own, and what they all stand on.

Everything that is started inherits the cores that this process has at that moment (`on_cores`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from benchmarks.dispatch import celery_tasks
from benchmarks.dispatch.clients import CAP, MODELS, WARM_UP, prompt
from benchmarks.peers.environment import find_uv, pip_settings, python_of
from deploy.servers import run_postgres, run_valkey
from migrations.runner import upgrade
from routing_service.db import Database
from routing_service.money import ledger
from tests.support.planned import NANO, Planned, make_planned_batch

ROOT = Path(__file__).parents[2]
LITELLM = "litellm==1.106.2"
POOL = 8  # processes of the Celery worker
PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Took:
    """What so many calls took: wall seconds, and the CPU seconds of the client's processes."""

    calls: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu_seconds / self.calls


Side = Callable[[int], Took]


@dataclass(frozen=True, slots=True)
class Stage:
    """What all sides stand on: a migrated database, a broker, an upstream."""

    database_url: str
    broker_url: str
    base_url: str


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Bind this process, and what it starts meanwhile, to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def staging(latency_ms: float) -> Iterator[Stage]:
    """A durable Postgres, as `routebatch up` runs it, a Valkey and the upstream."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-bench-")))
        database_url = stack.enter_context(run_postgres(directory / "postgres", durable=True))
        upgrade(database_url)
        broker_url = stack.enter_context(run_valkey(directory / "valkey"))
        command = [sys.executable, "-m", "benchmarks.dispatch.upstream", str(latency_ms)]
        base_url = stack.enter_context(_process(command)).readline().strip()
        yield Stage(database_url, broker_url, base_url)


class _Told:
    """A process that takes lines of JSON and answers them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def readline(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return line

    def tell(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        return dict(json.loads(self.readline()))


@contextmanager
def _process(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[_Told]:
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
    ) as process:
        try:
            yield _Told(process)
        finally:
            process.terminate()


@contextmanager
def client_side(python: Path, kind: str, stage: Stage, in_flight: int) -> Iterator[Side]:
    """litellm's Router or the bare openai client, by the Python of its environment."""
    script = str(Path(__file__).with_name("clients.py"))
    with _process([str(python), script, kind, stage.base_url, str(in_flight)]) as client:
        assert client.readline() == "ready\n"

        def run(calls: int) -> Took:
            client.tell({"calls": calls})
            return Took(**client.answer())

        yield run


@contextmanager
def pump_side(stage: Stage, in_flight: int, processes: int) -> Iterator[Side]:
    """So many dispatch processes. Every run is a batch of its own; the ledger is verified after it."""
    command = [sys.executable, "-m", "benchmarks.dispatch.pump"]
    command += [stage.database_url, stage.broker_url, stage.base_url, str(in_flight)]
    database = Database(stage.database_url)
    with ExitStack() as stack:
        pumps = [stack.enter_context(_process(command)) for _ in range(processes)]
        for pump in pumps:
            assert pump.readline() == "ready\n"

        def run(calls: int) -> Took:
            batch_id = _planned(database, calls)
            started = time.monotonic()
            for pump in pumps:
                pump.tell({"batch": batch_id})
            answers = [pump.answer() for pump in pumps]
            ended = max(answer["ended_s"] for answer in answers if answer["ended_s"] is not None)
            _check(database, batch_id, calls)
            return Took(calls, ended - started, sum(answer["cpu_seconds"] for answer in answers))

        yield run
    database.dispose()


def _planned(database: Database, calls: int) -> str:
    """A planned batch of which one half goes to each model."""
    requests = [Planned(ratio=n % 2 - 0.5, prompt=prompt(n), output_cap=CAP) for n in range(calls)]
    with database.transaction() as session:
        return make_planned_batch(session, requests, budget_nano=1000 * NANO)


def _check(database: Database, batch_id: str, calls: int) -> None:
    with database.transaction() as session:
        query = text("select succeeded from batches where id = :id")
        assert session.scalar(query, {"id": batch_id}) == calls
        assert ledger.verify(session) == []
        # Ended, it is not looked at by later runs.
        session.execute(
            text("update batches set state = 'completed', completed_at = now() where id = :id"), {"id": batch_id}
        )


@contextmanager
def celery_side(stage: Stage, cores: Sequence[int]) -> Iterator[Side]:
    """A Celery worker on `cores`; the tasks are published by this process, where the broker is."""
    app = celery_tasks.app
    app.conf.broker_url = stage.broker_url
    command = [sys.executable, "-m", "celery", "--app", "benchmarks.dispatch.celery_tasks", "worker"]
    command += ["--concurrency", str(POOL), "--loglevel", "ERROR", "--without-gossip", "--without-mingle"]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",  # of being root
        celery_tasks.BROKER: stage.broker_url,
        celery_tasks.UPSTREAM: stage.base_url,
    }
    with on_cores(cores):
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=os.environ | environment)
    try:

        def run(calls: int) -> Took:
            before, cpu, started = _stats(stage)["answered"], _cpu_seconds(worker.pid), time.monotonic()
            for number in range(calls):
                celery_tasks.answer.delay(MODELS[number % 2], prompt(number))
            while _stats(stage)["answered"] < before + calls:
                if worker.poll() is not None or time.monotonic() > started + PATIENCE_S:
                    raise RuntimeError(f"the Celery worker left tasks undone (exit {worker.poll()})")
                time.sleep(0.1)
            return Took(calls, _stats(stage)["last_s"] - started, _cpu_seconds(worker.pid) - cpu)

        run(WARM_UP)
        yield run
    finally:
        worker.terminate()
        worker.wait()


def _stats(stage: Stage) -> dict[str, Any]:
    with urllib.request.urlopen(stage.base_url + "/stats", timeout=30) as answer:
        return dict(json.load(answer))


def _cpu_seconds(pid: int) -> float:
    """Of a process and its children."""
    parent = psutil.Process(pid)
    times = [one.cpu_times() for one in [parent, *parent.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def make_litellm(environment: Path) -> Path:
    """The Python of an environment with litellm, which is made unless it is there."""
    python = python_of(environment)
    wanted = f"import importlib.metadata as m; assert m.version('litellm') == {LITELLM.partition('==')[2]!r}"
    if python.is_file() and subprocess.run([python, "-c", wanted], capture_output=True, check=False).returncode == 0:
        return python
    uv, settings = find_uv(), os.environ | pip_settings()
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True, env=settings)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), LITELLM], check=True, env=settings)
    return python
