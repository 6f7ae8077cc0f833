"""The routers by name. A process loads each router once and keeps it: `Routers(settings).get(name)`."""

from __future__ import annotations

from collections.abc import Callable

from routing_service.errors import InvalidRequestError
from routing_service.routers.base import Router
from routing_service.routers.random import RandomRouter
from routing_service.settings import Settings

ROUTERS: dict[str, Callable[[Settings], Router]] = {
    RandomRouter.name: lambda settings: RandomRouter(settings.routing.seed),
}

__all__ = ["ROUTERS", "Router", "Routers", "make_router"]


def make_router(name: str, settings: Settings) -> Router:
    """Build the router of that name. InvalidRequestError (`router_not_found`) lists the names there are."""
    try:
        build = ROUTERS[name]
    except KeyError:
        known = ", ".join(sorted(ROUTERS))
        message = f"There is no router {name[:80]!r}. Routers: {known}."
        raise InvalidRequestError(message, code="router_not_found", param="router") from None
    return build(settings)


class Routers:
    """The routers of this process, each built when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Router] = {}

    def get(self, name: str) -> Router:
        if name not in self._loaded:
            self._loaded[name] = make_router(name, self._settings)
        return self._loaded[name]
