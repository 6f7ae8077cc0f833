"""The checks of `routebatch doctor`: what is installed, configured and running, each with what to do about it.

`examine` runs all of them: the programs, the configuration and what it says of routing, the stack and its processes.
Nothing is changed. torch is imported only where a CUDA driver must be asked or a configured router is a neural network;
models of a hub are not fetched.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deploy import binaries
from deploy.configuration import check_config, find_config
from deploy.isolation import isolation
from deploy.layout import StackError, StateDir
from deploy.supervisor import Supervisor

if TYPE_CHECKING:
    from routing_service.settings import Settings

LOW_DISK_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One line of the table. `ok` None: for information, or not applicable."""

    name: str
    ok: bool | None
    detail: str


def check(name: str, work: Callable[[], str]) -> Check:
    """Run a check. Whatever it raises becomes its detail."""
    try:
        return Check(name, True, work())
    except Exception as error:
        return Check(name, False, str(error).strip() or type(error).__name__)


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
    programs = binaries.postgres_bin()
    server = binaries.Binary(programs.path / "postgres", programs.origin)
    return f"{server.version()} ({programs.origin}: {programs.path})"


def _valkey_version() -> str:
    server = binaries.valkey_server()
    return f"{server.version()} ({server.origin}: {server.path})"


def _isolation() -> str:
    if os.environ.get("ROUTEBATCH_DATABASE_URL"):
        return "not needed: ROUTEBATCH_DATABASE_URL is set"
    needed = isolation()
    if needed.prefix:
        return "in a user namespace"
    return "directly" if needed.uid is None else f"as uid {needed.uid}: user namespaces are refused here"


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


def routing_checks(settings: Settings) -> list[Check]:
    """The device, torch, the router of batches that name none, every configured artifact, the encoder."""
    from routing_service import device

    artifacts = settings.routing.artifacts
    return [
        check("device", lambda: device.describe(settings.routing.device)),
        _torch(),
        check("router", lambda: _router(settings)),
        *(check(f"router {name}", partial(_artifact, path, settings)) for name, path in artifacts.items()),
        _encoder(settings),
    ]


def _torch() -> Check:
    try:
        return Check("torch", True, importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return Check("torch", None, "not installed: routers that are neural networks, and float encoders, need it")


def _router(settings: Settings) -> str:
    """The default router can be named; ones that are configured are loaded for a line of their own."""
    from routing_service.router_versions.versions import version_number
    from routing_service.routers.registry import AUTO, DEFAULT_ARTIFACT, canonical, check_name

    name = canonical(settings.routing.router)
    check_name(name, settings, "routing.router")
    if name in settings.routing.artifacts:
        return f"{name}, from {settings.routing.artifacts[name]}"
    if name == "random":
        return f"random, seed {settings.routing.seed}"
    if version_number(name) is not None:
        return f"{name}, from the artifact store"
    built_in = _artifact(settings.routing.artifacts.get("gain", DEFAULT_ARTIFACT), settings)
    return f"the active router version, else {built_in}" if name == AUTO else built_in


def version_in_force(database_url: str) -> str:
    """Which router version is active. StackError where it could not be loaded: then an older router serves."""
    from routing_service.db import Database
    from routing_service.router_versions.versions import active, version_name

    database = Database(database_url, pool_size=1)
    try:
        with database.transaction() as session:
            version = active(session)
    finally:
        database.dispose()
    if version is None:
        return "none is active: the built-in router serves"
    name = f"{version_name(version.id)} ({version.method})"
    if version.failure is not None:
        raise StackError(f"{name} could not be loaded at {version.failed_at:%Y-%m-%d %H:%M %Z}: {version.failure}")
    return f"{name}, active since {version.activated_at:%Y-%m-%d %H:%M %Z}"


def _artifact(path: Path, settings: Settings) -> str:
    """Loaded whole, as a worker does it: less would not say that it can be."""
    from routing_service.routers.registry import load_router

    return f"{load_router(path, settings).name}, loaded from {path}"


def _encoder(settings: Settings) -> Check:
    """Not used by every router: a mistake is one only where somebody named an encoder."""
    named = check("encoder", lambda: _encoder_named(settings))
    if named.ok is False and "encoder" not in settings.embedding.model_fields_set:
        return Check("encoder", None, f"{named.detail} (only routers that compare vectors need it)")
    return named


def _encoder_named(settings: Settings) -> str:
    from routing_service.embedding.base import parse
    from routing_service.embedding.cache import default_directory
    from routing_service.embedding.model_files import is_here
    from routing_service.embedding.registry import make_encoder

    spec = parse(settings.embedding.encoder, settings)
    if spec.kind != "endpoint" and not is_here(spec.name):
        return f"{spec}, which is fetched from a hub when it is first used"
    cache = settings.embedding.cache or default_directory()
    kept = f"cached in {cache}" if settings.embedding.cache_bytes else "not cached"
    return f"{make_encoder(settings).spec}, {'not cached' if spec.kind == 'static' else kept}"
