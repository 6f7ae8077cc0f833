"""The embedded servers on their own: started, stopped, killed, locked."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from sqlalchemy import create_engine, text

from deploy.embedded import PostgresServer, ValkeyServer, remove_stale_pidfile
from deploy.isolation import NOBODY, Isolation
from deploy.layout import hashed_dir, is_locked, socket_dir
from deploy.processes import Program, launch_argv, write_programs
from deploy.servers import run_postgres, run_valkey


def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def answer(url: str) -> str:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return str(connection.execute(text("SELECT current_database()")).scalar())
    finally:
        engine.dispose()


def test_postgres_runs_and_keeps_its_data(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as url:
        assert answer(url) == "routebatch"
    with run_postgres(tmp_path) as url:
        assert answer(url) == "routebatch"
    assert not is_locked(tmp_path / "postgres.lock")


def test_postgres_listens_on_its_private_socket_only(tmp_path: Path) -> None:
    with run_postgres(tmp_path) as url, psycopg.connect(url.replace("+psycopg", "")) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW unix_socket_permissions").fetchone() == ("0700",)
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_a_bad_locale_of_the_caller_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "xx_XX.no-such-locale")
    with run_postgres(tmp_path) as url:
        assert answer(url) == "routebatch"


def test_a_cluster_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "initdb" / "base").mkdir(parents=True)
    (tmp_path / "postgres").mkdir()
    with run_postgres(tmp_path) as url:
        assert answer(url) == "routebatch"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root turns into another user")
def test_where_namespaces_are_refused_root_runs_postgres_as_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolated = Isolation(uid=NOBODY)
    server = PostgresServer(tmp_path, socket_dir(tmp_path), durable=False, isolated=isolated)
    monkeypatch.setattr("deploy.servers.PostgresServer", lambda *_, **__: server)
    with run_postgres(tmp_path) as url:
        assert answer(url) == "routebatch"
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        assert psutil.Process(pid).uids().real == NOBODY
    assert not hashed_dir(tmp_path, Path("/var/tmp")).exists()


def test_a_pid_file_is_removed_only_if_its_server_is_gone(tmp_path: Path) -> None:
    pid_file = tmp_path / "postmaster.pid"
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as server:
        try:
            pid_file.write_text(f"{server.pid}\n{tmp_path}\n")
            remove_stale_pidfile(tmp_path)
            assert pid_file.exists()
        finally:
            server.kill()
        eventually(lambda: psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE)
        remove_stale_pidfile(tmp_path)  # the zombie would fool Postgres
        assert not pid_file.exists()
    pid_file.write_text(f"{os.getpid()}\n{tmp_path}\n")  # a pid that somebody else has now
    remove_stale_pidfile(tmp_path)
    assert not pid_file.exists()


def test_valkey_runs_and_keeps_its_data(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        with (
            run_valkey(tmp_path) as url,
            redis.Redis(unix_socket_path=url[len("redis+socket://") :].split("?")[0]) as it,
        ):
            assert it.get("key") == expected
            it.set("key", 1)


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[[str, Program], subprocess.Popen[bytes]]]:
    """Launch programs; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def launch(name: str, program: Program) -> subprocess.Popen[bytes]:
        write_programs(tmp_path / f"{name}.json", {name: program})
        started.append(subprocess.Popen(launch_argv(tmp_path / f"{name}.json", name), stderr=subprocess.DEVNULL))
        return started[-1]

    yield launch
    for process in started:
        process.kill()
        process.wait()


def test_a_second_valkey_on_the_same_directory_does_not_start(
    tmp_path: Path, launched: Callable[[str, Program], subprocess.Popen[bytes]]
) -> None:
    with run_valkey(tmp_path):
        second = ValkeyServer(tmp_path, tmp_path)
        assert launched("second", second.program).wait(30) == 75


def test_a_lock_is_free_once_its_holder_is_killed(
    tmp_path: Path, launched: Callable[[str, Program], subprocess.Popen[bytes]]
) -> None:
    lock = tmp_path / "lock"
    first = launched("first", Program(["/bin/sleep", "60"], lock=str(lock)))
    eventually(lambda: is_locked(lock))
    second = launched("second", Program(["/bin/sleep", "60"], lock=str(lock)))  # waits for its turn
    first.kill()
    first.wait()
    eventually(lambda: psutil.Process(second.pid).name() == "sleep")
    assert is_locked(lock)


def test_a_process_gets_its_death_signal_when_its_parent_dies(tmp_path: Path) -> None:
    write_programs(tmp_path / "it.json", {"it": Program(["/bin/sleep", "60"], death_signal="TERM")})
    parent = subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait', "sh", *launch_argv(tmp_path / "it.json", "it")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    eventually(lambda: child.name() == "sleep")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
