"""What one start of the stack consists of: addresses, environment, servers and the programs to supervise."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.configuration import check_config, find_config
from deploy.embedded import PostgresServer, Server, ValkeyServer
from deploy.isolation import isolation
from deploy.layout import StackError, StateDir
from deploy.processes import FLOWER_USER, PROCESSES, Process, Program, resolve
from deploy.supervisor import MARK, Entry

LOOPBACK = "127.0.0.1"
START_SECONDS = 5  # of a Python process: importing takes most of a second, a wrong configuration shows within few


@dataclass(frozen=True)
class Options:
    """What the caller of `up` chose. Port 0 picks a free one."""

    state_dir: Path | None = None
    config: Path | None = None
    port: int = 8080
    flower_port: int = 5555
    detach: bool = False


@dataclass(frozen=True)
class StackSpec:
    """Everything a start needs, decided before anything runs."""

    env: dict[str, str]
    servers: tuple[Server, ...]
    processes: tuple[Process, ...]
    api_url: str
    flower_url: str
    flower_password: str
    database_url: str
    broker_url: str

    @property
    def entries(self) -> list[Entry]:
        """The programs in the order they start: Postgres, Valkey, the API, the workers, beat and Flower."""
        entries = [
            Entry(server.name, server.name, server.program, server.stop_signal, stop_seconds=30)
            for server in self.servers
        ]
        for process in self.processes:
            program = Program(resolve(process.argv), death_signal="TERM")
            entries.append(
                Entry(process.name, process.group, program, "TERM", process.stop_seconds, START_SECONDS),
            )
        return entries

    def addresses(self) -> dict[str, str]:
        """The part of stack.json that is known before anything runs."""
        return {
            "config": self.env["ROUTEBATCH_CONFIG"],
            "api_url": self.api_url,
            "flower_url": self.flower_url,
            "flower_user": FLOWER_USER,
            "flower_password": self.flower_password,
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "artifact_url": self.env["ROUTEBATCH_ARTIFACT_URL"],
        }


def make_spec(options: Options, state: StateDir, caller: Mapping[str, str] = os.environ) -> StackSpec:
    """Decide everything; raises StackError for a missing configuration or a taken port."""
    config = find_config(options.config, state)
    settings = check_config(config)
    servers: list[Server] = []
    database_url, broker_url = caller.get("ROUTEBATCH_DATABASE_URL"), caller.get("ROUTEBATCH_BROKER_URL")
    if not database_url:
        postgres = PostgresServer(state.root, state.sockets, isolated=isolation())
        servers.append(postgres)
        database_url = postgres.url
    if not broker_url:
        valkey = ValkeyServer(state.root, state.sockets)
        servers.append(valkey)
        broker_url = valkey.url
    host = caller.get("ROUTEBATCH_API_HOST") or LOOPBACK
    port = choose_port(options.port, host, "--port")
    flower_port = choose_port(options.flower_port, LOOPBACK, "--flower-port")
    password = flower_password(state)
    env = dict(caller) | {
        MARK: str(state.root),
        "ROUTEBATCH_STATE_DIR": str(state.root),
        "ROUTEBATCH_CONFIG": str(config),
        "ROUTEBATCH_DATABASE_URL": database_url,
        "ROUTEBATCH_BROKER_URL": broker_url,
        "ROUTEBATCH_ARTIFACT_URL": _from_anywhere(
            caller.get("ROUTEBATCH_ARTIFACT_URL") or settings.artifact_url or str(state.artifacts)
        ),
        "ROUTEBATCH_API_HOST": host,
        "ROUTEBATCH_API_PORT": str(port),
        "FLOWER_ADDRESS": LOOPBACK,
        "FLOWER_PORT": str(flower_port),
        "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{password}",
        "TMPDIR": str(state.temporary),
        "PYTHONUNBUFFERED": "1",  # logs are pipes: lines are to arrive when they are written
    }
    seen = LOOPBACK if host in ("0.0.0.0", "::", "") else host  # noqa: S104
    api_url = f"http://[{seen}]:{port}" if ":" in seen else f"http://{seen}:{port}"
    flower_url = f"http://{LOOPBACK}:{flower_port}"
    return StackSpec(env, tuple(servers), PROCESSES, api_url, flower_url, password, database_url, broker_url)


def _from_anywhere(url: str) -> str:
    """A directory that is named from where the caller stands, by its whole path: our processes stand elsewhere."""
    return url if "://" in url else str(Path(url).absolute())


def choose_port(wanted: int, host: str, option: str) -> int:
    """A port that can be listened on; raises StackError naming the option where the wanted one is taken."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or None, wanted, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise StackError(f"port {wanted} of {host} cannot be used ({error}): choose another with {option}") from error


def flower_password(state: StateDir) -> str:
    """Flower's password: made once, stored in the state directory."""
    stored = state.read_secrets()
    if "flower_password" not in stored:
        stored["flower_password"] = secrets.token_urlsafe(18)
        state.write_secrets(stored)
    return stored["flower_password"]
