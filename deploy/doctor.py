"""The checks of `routebatch doctor`: what is installed, configured and running, each with what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy import binaries
from deploy.configuration import check_config, find_config
from deploy.errors import StackError
from deploy.isolation import isolation
from deploy.layout import StateDir

LOW_DISK_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One line of the table. `ok` None: for information, or not applicable."""

    name: str
    ok: bool | None
    detail: str


def examine(state: StateDir, config: Path | None) -> list[Check]:
    """Run every check; none of them changes anything."""
    stack = state.read_stack()
    checks = [
        Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} ({sys.executable})"),
        _check("postgres", lambda: _server_binary("ROUTEBATCH_DATABASE_URL", _postgres_version)),
        _check("valkey", lambda: _server_binary("ROUTEBATCH_BROKER_URL", _valkey_version)),
        _check("postgres as this user", _isolation),
        _configuration(state, config),
        _check("disk", lambda: _disk(state)),
        _torch(),
    ]
    if not stack and not os.environ.get("ROUTEBATCH_DATABASE_URL"):
        return [*checks, Check("stack", None, f"none runs in {state.root}: start it with `routebatch up`")]
    database = os.environ.get("ROUTEBATCH_DATABASE_URL") or stack["database_url"]
    checks.append(_check("database", lambda: _database(database)))
    if broker := os.environ.get("ROUTEBATCH_BROKER_URL") or stack.get("broker_url"):
        checks.append(_check("broker", lambda: _broker(broker)))
    return [*checks, *_processes(state)]


def _check(name: str, work: Callable[[], str]) -> Check:
    """Whatever a check raises is its finding."""
    try:
        return Check(name, True, work())
    except Exception as error:
        return Check(name, False, str(error).strip() or type(error).__name__)


def _server_binary(variable: str, version: Callable[[], str]) -> str:
    return f"not needed: {variable} is set" if os.environ.get(variable) else version()


def _postgres_version() -> str:
    found = binaries.postgres_bin()
    return f"{binaries.Binary(found.path / 'postgres', found.origin).version()} ({found.origin}: {found.path})"


def _valkey_version() -> str:
    found = binaries.valkey_server()
    return f"{found.version()} ({found.origin}: {found.path})"


def _isolation() -> str:
    if os.environ.get("ROUTEBATCH_DATABASE_URL"):
        return "not needed: ROUTEBATCH_DATABASE_URL is set"
    found = isolation()
    if found.prefix:
        return "in a user namespace"
    return "directly" if found.uid is None else f"as uid {found.uid}: user namespaces are refused here"


def _configuration(state: StateDir, config: Path | None) -> Check:
    try:
        path = find_config(config, state)
    except StackError as error:
        return Check("configuration", False, str(error).splitlines()[0])

    def read() -> str:
        settings = check_config(path)
        return f"{path}: candidates {', '.join(settings.candidates) or 'none'}"

    return _check("configuration", read)


def _disk(state: StateDir) -> str:
    existing = next(path for path in (state.root, *state.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_DISK_BYTES:
        raise StackError(f"only {free / 1e9:.1f} GB free under {existing}")
    return f"{free / 1e9:.1f} GB free under {existing}"


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("torch", None, "not installed: only routers without a model can be used")

    def device() -> str:
        import torch

        kind = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
        return f"{torch.__version__}, device {kind}"

    return _check("torch", device)


def _database(url: str) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    from migrations.runner import revisions

    try:
        current, newest = revisions(url)
    except SQLAlchemyError as error:
        # the library's message may hold the address with its password
        raise StackError(f"not reachable ({type(error).__name__})") from None
    if current != newest:
        raise StackError(f"schema revision {current or 'none'}, this code needs {newest}: run `routebatch migrate`")
    return f"reachable, schema revision {current}"


def _broker(url: str) -> str:
    from deploy.health import broker_answers

    if not broker_answers(url):
        raise StackError("not reachable")
    return "reachable"


def _processes(state: StateDir) -> list[Check]:
    """Each process that supervisord knows, and whether it lives."""
    from deploy.supervisor import Supervisor

    supervisor = Supervisor(state)
    if not state.root.is_dir() or not supervisor.running:
        return [Check("stack", None, f"none runs in {state.root}")]
    try:
        info = supervisor.info()
    except StackError as error:
        return [Check("supervisord", False, str(error))]
    return [
        Check(name, bool(entry["pid"]), f"{entry['statename'].lower()}, {entry['description']}")
        for name, entry in info.items()
    ]
