"""The checks of `routebatch doctor`: what is installed, configured and running, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deploy import binaries
from deploy.checks import Check, check
from deploy.configuration import check_config, find_config
from deploy.doctor_routing import routing_checks, version_in_force
from deploy.errors import StackError
from deploy.isolation import isolation
from deploy.layout import StateDir
from deploy.supervisor import Supervisor

LOW_DISK_BYTES = 1_000_000_000


def examine(state: StateDir, config: Path | None) -> list[Check]:
    """Run every check; none of them changes anything."""
    stack = state.read_stack()
    checks = [
        Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} ({sys.executable})"),
        check("postgres", lambda: _server_binary("ROUTEBATCH_DATABASE_URL", _postgres_version)),
        check("valkey", lambda: _server_binary("ROUTEBATCH_BROKER_URL", _valkey_version)),
        check("postgres as this user", _isolation),
        *_configured(state, config),
        check("disk", lambda: _disk(state)),
    ]
    if not stack and not os.environ.get("ROUTEBATCH_DATABASE_URL"):
        return [*checks, Check("stack", None, f"none runs in {state.root}: start it with `routebatch up`")]
    database = os.environ.get("ROUTEBATCH_DATABASE_URL") or stack["database_url"]
    checks.append(check("database", lambda: _database(database)))
    if checks[-1].ok:
        checks.append(check("router version", lambda: version_in_force(database)))
    if broker := os.environ.get("ROUTEBATCH_BROKER_URL") or stack.get("broker_url"):
        checks.append(check("broker", lambda: _broker(broker)))
    return [*checks, *_processes(state)]


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


def _configured(state: StateDir, config: Path | None) -> list[Check]:
    """The configuration, and what it says of routing."""
    try:
        path = find_config(config or _of_the_stack(state), state)
        settings = check_config(path)
    except StackError as error:
        return [Check("configuration", False, str(error).splitlines()[0])]
    candidates = ", ".join(settings.candidates) or "none"
    return [Check("configuration", True, f"{path}: candidates {candidates}"), *routing_checks(settings)]


def _of_the_stack(state: StateDir) -> Path | None:
    """The file that a running stack was started with: it is in force, wherever doctor is called."""
    path = state.read_stack().get("config")
    return Path(path) if isinstance(path, str) and _runs(state) else None


def _runs(state: StateDir) -> bool:
    return state.root.is_dir() and Supervisor(state).running


def _disk(state: StateDir) -> str:
    existing = next(path for path in (state.root, *state.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_DISK_BYTES:
        raise StackError(f"only {free / 1e9:.1f} GB free under {existing}")
    return f"{free / 1e9:.1f} GB free under {existing}"


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
    if not _runs(state):
        return [Check("stack", None, f"none runs in {state.root}")]
    try:
        info = Supervisor(state).info()
    except StackError as error:
        return [Check("supervisord", False, str(error))]
    return [
        Check(name, bool(entry["pid"]), f"{entry['statename'].lower()}, {entry['description']}")
        for name, entry in info.items()
    ]
