"""The embedded servers, Postgres and Valkey: how they are set up, started and asked whether they are ready.

The supervisor runs them from their `program`; tests run them by `run_postgres` and `run_valkey`. Both listen on unix
sockets only, which nobody but their owner may open.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import psutil
import psycopg
import redis
from psycopg import sql

from deploy import binaries
from deploy.isolation import Isolation, foreign_dir, isolation
from deploy.layout import StackError, is_locked, private_dir
from deploy.processes import Program

DATABASE = "routebatch"
# A small machine: a modest cache, and room for the connections of every worker process.
TUNING = {"shared_buffers": "256MB", "max_connections": "200", "wal_compression": "on", "timezone": "UTC"}
# For a database that lives as long as a test.
THROWAWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


@dataclass(frozen=True)
class PostgresServer:
    """One Postgres under `root`, its socket in `sockets`. The role and the database are both called routebatch."""

    root: Path
    sockets: Path
    durable: bool = True
    isolated: Isolation = field(default_factory=isolation)
    name: str = "postgres"
    stop_signal: str = "INT"  # fast shutdown: open transactions are rolled back, clients disconnected

    @property
    def data(self) -> Path:
        return self._place("data") or self.root / "postgres"

    @property
    def socket_dir(self) -> Path:
        return self._place("run") or self.sockets

    def _place(self, name: str) -> Path | None:
        return None if self.isolated.uid is None else foreign_dir(self.root, self.isolated.uid) / name

    @property
    def lock(self) -> Path:
        return self.root / "postgres.lock"

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        query = urlencode({"host": str(self.socket_dir), "user": DATABASE}, quote_via=quote, safe="")
        return f"postgresql+psycopg:///{DATABASE}?{query}"

    @property
    def program(self) -> Program:
        settings = TUNING | ({} if self.durable else THROWAWAY)
        settings |= {"listen_addresses": "", "unix_socket_permissions": "0700"}
        argv = [*self.isolated.prefix, str(binaries.postgres_bin().path / "postgres")]
        argv += ["-D", str(self.data), "-k", str(self.socket_dir)]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        return Program(
            argv, env={"LC_ALL": "C"}, lock=str(self.lock), uid=self.isolated.uid, death_signal=self.stop_signal
        )

    def prepare(self) -> None:
        """Make the cluster on first use; clear away what a dead server left behind."""
        if not (self.data / "PG_VERSION").is_file():
            self._initdb()
        elif not is_locked(self.lock):
            remove_stale_pidfile(self.data)

    def _initdb(self) -> None:
        """In a directory beside it, renamed when complete: a cluster half made is never taken for a whole one."""
        fresh = self.data.with_name("initdb")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.isolated.uid is not None:
            os.chown(fresh, self.isolated.uid, self.isolated.uid)
        argv = [*self.isolated.prefix, str(binaries.postgres_bin().path / "initdb"), "-D", str(fresh)]
        argv += ["--username", DATABASE, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.durable:
            argv.append("--no-sync")
        # a locale the machine does not have would fail initdb: LC_ALL overrides whatever the caller set
        env = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(  # type: ignore[call-overload]
            argv, env=env, cwd="/", capture_output=True, text=True, check=False, **self.isolated.demote()
        )
        if done.returncode != 0:
            raise StackError(f"initdb failed:\n{(done.stderr or done.stdout).strip()}")
        if self.data.exists():
            self.data.rmdir()  # only ever empty: it holds no PG_VERSION; anything else stops us here
        fresh.rename(self.data)

    def check(self) -> None:
        """Return when the server answers; raises psycopg.Error until then."""
        with self._connect():
            pass

    def create_database(self) -> None:
        """Make the database unless it is there."""
        with self._connect() as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if row is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.socket_dir), user=DATABASE, dbname="postgres", autocommit=True, connect_timeout=5
        )


@dataclass(frozen=True)
class ValkeyServer:
    """One Valkey with its data under `root` and its socket in `sockets`."""

    root: Path
    sockets: Path
    name: str = "valkey"
    stop_signal: str = "TERM"

    @property
    def data(self) -> Path:
        return self.root / "valkey"

    @property
    def socket(self) -> Path:
        return self.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        """For Celery."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    @property
    def program(self) -> Program:
        argv = [str(binaries.valkey_server().path), "--port", "0", "--daemonize", "no"]
        argv += ["--unixsocket", str(self.socket), "--unixsocketperm", "700", "--dir", str(self.data)]
        argv += ["--appendonly", "yes", "--save", ""]  # the append-only file is enough: no snapshots beside it
        # Valkey would run twice on one directory and spoil its log: hence the lock
        return Program(argv, lock=str(self.root / "valkey.lock"), death_signal=self.stop_signal)

    def prepare(self) -> None:
        """Make the data directory."""
        private_dir(self.data)

    def check(self) -> None:
        """Return when the server answers; raises redis.RedisError until then (while it loads its log, too)."""
        with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5) as client:
            client.ping()


Server = PostgresServer | ValkeyServer
NOT_READY = (psycopg.Error, redis.RedisError, OSError)


def remove_stale_pidfile(data: Path) -> None:
    """Drop `postmaster.pid` if no Postgres of this directory lives: zombies and reused pids fool Postgres itself."""
    path = data / "postmaster.pid"
    try:
        pid = int(path.read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == data.resolve()
    except (psutil.Error, OSError):
        alive = False
    if not alive:
        path.unlink(missing_ok=True)
