"""The routers by name. A process loads each router once and keeps it: `Routers(settings).get(name)`.

A new method is a module beside this one and a line in METHODS. Modules of routers are imported when one is first asked
for. A batch names a router that is built in (`gain`, which ships fitted, and `random`), one of the configuration's
`routing.artifacts`, or a method, which means the artifact of that name.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

from routing_service.errors import ArtifactError, InvalidRequestError
from routing_service.routers.base import Router
from routing_service.settings import Settings

DEFAULT_ARTIFACT = Path(__file__).parent / "default"

# method -> module:class
METHODS = {
    "bert": "routing_service.routers.bert:BertRouter",
    "causal_llm": "routing_service.routers.causal_llm:CausalLLMRouter",
    "ensemble": "routing_service.routers.ensemble:EnsembleRouter",
    "gain": "routing_service.routers.gain:GainRouter",
    "matrix_factorization": "routing_service.routers.matrix_factorization:MatrixFactorizationRouter",
    "random": "routing_service.routers.random:RandomRouter",
    "similarity_weighted": "routing_service.routers.similarity_weighted:SimilarityWeightedRouter",
}
ALIASES = {"sw_ranking": "similarity_weighted", "mf": "matrix_factorization"}

__all__ = ["ALIASES", "METHODS", "Router", "Routers", "load_router", "make_router", "router_identity", "router_names"]


def router_names(settings: Settings) -> list[str]:
    """The names that a batch may give: built in or configured."""
    return sorted({"gain", "random", *settings.routing.artifacts})


def canonical(name: str) -> str:
    """A router's own name for an alias; any other name as it is."""
    return ALIASES.get(name, name)


def make_router(name: str, settings: Settings) -> Router:
    """Build the router of that name. InvalidRequestError (`router_not_found`) lists the names there are."""
    check_name(name, settings)
    name = canonical(name)
    if name in settings.routing.artifacts:
        return load_router(settings.routing.artifacts[name], settings)
    if name == "random":
        from routing_service.routers.random import RandomRouter

        return RandomRouter(settings.routing.seed)
    return load_router(DEFAULT_ARTIFACT, settings)


def router_identity(name: str, settings: Settings) -> str | None:
    """What changes when another router takes that name; None where its artifact cannot be read, or there is none."""
    from routing_service.routers.artifact import METADATA

    artifacts = settings.routing.artifacts
    if name == "random" and name not in artifacts:
        return f"seed {settings.routing.seed}"
    if name != "gain" and name not in artifacts:
        return None
    try:  # the metadata names the SHA-256 of the tensors
        return hashlib.sha256((artifacts.get(name, DEFAULT_ARTIFACT) / METADATA).read_bytes()).hexdigest()
    except OSError:
        return None


def check_name(name: str, settings: Settings, param: str = "router") -> None:
    """InvalidRequestError unless a batch may name this router: of no such name, or of a method that nobody fitted."""
    names = router_names(settings)
    if canonical(name) in names:
        return
    code, reason = "router_not_found", f"There is no router {name[:80]!r}."
    if canonical(name) in METHODS:
        code = "router_not_fitted"
        reason = f"{name} is a method, and no fitted router of it is configured (routing.artifacts.{canonical(name)})."
    raise InvalidRequestError(f"{reason} Routers: {', '.join(names)}.", code=code, param=param)


def load_router(directory: Path, settings: Settings) -> Router:
    """Load a fitted router from its artifact. ArtifactError for whatever is wrong with it."""
    from routing_service.routers.artifact import kind_of

    kind = kind_of(directory)
    if kind not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise ArtifactError(f"{directory} holds a router of unknown kind {kind[:80]!r}. Kinds: {known}")
    return router_class(kind).load(directory, settings)


def router_class(kind: str) -> type[Router]:
    """The class that scores artifacts of that kind, which must be a method's name."""
    module, _, name = METHODS[kind].partition(":")
    found: type[Router] = getattr(import_module(module), name)
    return found


class Routers:
    """The routers of this process, each built when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Router] = {}

    def get(self, name: str) -> Router:
        if name not in self._loaded:
            self._loaded[name] = make_router(name, self._settings)
        return self._loaded[name]
