"""The routers by name. A process loads each router once and keeps it: `Routers(settings).get(name)`.

A new method is a module beside this one, an entry in ROUTERS (the router that batches name) and one in KINDS (what an
artifact of it is loaded by). Modules of routers are imported when one is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from routing_service.errors import ArtifactError, InvalidRequestError
from routing_service.routers.base import Router
from routing_service.settings import Settings

DEFAULT_ARTIFACT = Path(__file__).parent / "default"


def _gain(directory: Path, settings: Settings) -> Router:
    from routing_service.routers.gain import GainRouter

    return GainRouter.load(directory)


def _random(directory: Path, settings: Settings) -> Router:
    from routing_service.routers.random import RandomRouter

    return RandomRouter.load(directory)


def _seeded(settings: Settings) -> Router:
    from routing_service.routers.random import RandomRouter

    return RandomRouter(settings.routing.seed)


ROUTERS: dict[str, Callable[[Settings], Router]] = {
    "gain": lambda settings: _gain(DEFAULT_ARTIFACT, settings),
    "random": _seeded,
}
KINDS: dict[str, Callable[[Path, Settings], Router]] = {"gain": _gain, "random": _random}

__all__ = ["KINDS", "ROUTERS", "Router", "Routers", "load_router", "make_router"]


def make_router(name: str, settings: Settings) -> Router:
    """Build the router of that name. InvalidRequestError (`router_not_found`) lists the names there are."""
    try:
        build = ROUTERS[name]
    except KeyError:
        known = ", ".join(sorted(ROUTERS))
        message = f"There is no router {name[:80]!r}. Routers: {known}."
        raise InvalidRequestError(message, code="router_not_found", param="router") from None
    return build(settings)


def load_router(directory: Path, settings: Settings) -> Router:
    """Load a fitted router from its artifact. ArtifactError for whatever is wrong with it."""
    from routing_service.routers.artifact import kind_of

    kind = kind_of(directory)
    if kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise ArtifactError(f"{directory} holds a router of unknown kind {kind[:80]!r}. Kinds: {known}")
    return KINDS[kind](directory, settings)


class Routers:
    """The routers of this process, each built when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Router] = {}

    def get(self, name: str) -> Router:
        if name not in self._loaded:
            self._loaded[name] = make_router(name, self._settings)
        return self._loaded[name]
