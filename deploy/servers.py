"""Servers for as long as a `with` block lasts: what tests and benchmarks run on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.embedded import NOT_READY, PostgresServer, Server, ValkeyServer
from deploy.isolation import foreign_dir
from deploy.layout import StackError, private_dir, remove_sockets, socket_dir
from deploy.processes import launch_argv, write_programs

READY_SECONDS = 60
STOP_SECONDS = 15


@contextmanager
def run_postgres(directory: Path, *, durable: bool = False) -> Iterator[str]:
    """A Postgres under `directory` with an empty database; yields its SQLAlchemy URL. Fast rather than durable, unless
    it is to be as `routebatch up` runs it.

    Call it from the main thread: the server stops when the thread that started it ends.
    """
    directory = private_dir(directory).absolute()
    server = PostgresServer(directory, socket_dir(directory), durable=durable)
    try:
        with _running(server, directory):
            server.create_database()
            yield server.url
    finally:
        remove_sockets(directory)
        if server.isolated.uid is not None:
            shutil.rmtree(foreign_dir(directory, server.isolated.uid), ignore_errors=True)


@contextmanager
def run_valkey(directory: Path) -> Iterator[str]:
    """A Valkey under `directory`; yields its Celery URL. Call it from the main thread, as above."""
    directory = private_dir(directory).absolute()
    server = ValkeyServer(directory, socket_dir(directory))
    try:
        with _running(server, directory):
            yield server.url
    finally:
        remove_sockets(directory)


@contextmanager
def _running(server: Server, directory: Path) -> Iterator[None]:
    server.prepare()
    programs = directory / f"{server.name}.json"
    write_programs(programs, {server.name: server.program})
    log = directory / f"{server.name}.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            launch_argv(programs, server.name),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # a Ctrl-C at the terminal is for the tests, not for their servers
        )
    try:
        _wait_ready(server, process, log)
        yield
    finally:
        process.send_signal(getattr(signal, f"SIG{server.stop_signal}"))
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            server.check()
        except NOT_READY as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise StackError(f"{server.name} did not start ({error}):\n{tail}") from error
            time.sleep(0.02)
        else:
            return
