"""What `routebatch doctor` says of routing: the device, the routers that can be used, the encoder of prompts.

torch is imported only where a CUDA driver must be asked, or a configured router is a neural network; models of a hub
are not fetched.
"""

from __future__ import annotations

import importlib.metadata
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.checks import Check, check

if TYPE_CHECKING:
    from routing_service.settings import Settings


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
    from deploy.errors import StackError
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
    found = check("encoder", lambda: _encoder_named(settings))
    if found.ok is False and "encoder" not in settings.embedding.model_fields_set:
        return Check("encoder", None, f"{found.detail} (only routers that compare vectors need it)")
    return found


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
