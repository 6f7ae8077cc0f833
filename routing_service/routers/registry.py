"""The routers by name. A process loads each router once and keeps it: `Routers(settings, database).get(name)`.

A new method is a module beside this one and a line in METHODS. Modules of routers are imported when one is first asked
for. A batch names a router that is built in (`gain`, which ships fitted, and `random`), one of the configuration's
`routing.artifacts`, a method, which means the artifact of that name, or a router version (`version-12`). `auto` is the
version that is active when the batch is first scored, else `gain`.
"""

from __future__ import annotations

import hashlib
import logging
from importlib import import_module
from pathlib import Path

from routing_service.db import Database
from routing_service.errors import ArtifactError, InvalidRequestError
from routing_service.router_versions.artifact_store import ArtifactStore
from routing_service.router_versions.versions import (
    LONGEST_FAILURE,
    find,
    note_failure,
    to_serve,
    version_name,
    version_number,
)
from routing_service.routers.base import Router
from routing_service.settings import Settings
from routing_service.upstream.outcome import mask

log = logging.getLogger(__name__)

AUTO, BUILT_IN = "auto", "gain"
VERSIONS_LOADED = 2  # the active one, and one that batches in progress were begun with; models may be large
DEFAULT_ARTIFACT = Path(__file__).parent / "default"

# method -> module:class
METHODS = {
    "bert": "routing_service.routers.transformers.bert:BertRouter",
    "causal_llm": "routing_service.routers.transformers.causal_llm:CausalLLMRouter",
    "ensemble": "routing_service.routers.ensemble:EnsembleRouter",
    "gain": "routing_service.routers.gain.router:GainRouter",
    "matrix_factorization": "routing_service.routers.bradley_terry.matrix_factorization:MatrixFactorizationRouter",
    "random": "routing_service.routers.random:RandomRouter",
    "similarity_weighted": "routing_service.routers.bradley_terry.similarity_weighted:SimilarityWeightedRouter",
}
ALIASES = {"sw_ranking": "similarity_weighted", "mf": "matrix_factorization"}

__all__ = [
    "ALIASES",
    "AUTO",
    "BUILT_IN",
    "METHODS",
    "Router",
    "Routers",
    "load_artifact",
    "load_router",
    "load_version",
    "make_router",
    "router_identity",
    "router_names",
]


def router_names(settings: Settings) -> list[str]:
    """The names that a batch may give, built in or configured; beside them there are those of router versions."""
    return sorted({AUTO, BUILT_IN, "random", *settings.routing.artifacts})


def canonical(name: str) -> str:
    """A router's own name for an alias; any other name as it is."""
    return ALIASES.get(name, name)


def make_router(name: str, settings: Settings) -> Router:
    """Build the router of that name; of `auto` the built-in one. InvalidRequestError (`router_not_found`) lists the
    names there are, ArtifactError says of a version that `load_version` has it."""
    check_name(name, settings)
    if version_number(name) is not None:
        raise ArtifactError(f"{name} is a router version: only the database knows its artifact")
    name = canonical(name)
    if name in settings.routing.artifacts:
        return load_router(settings.routing.artifacts[name], settings)
    if name == "random":
        from routing_service.routers.random import RandomRouter

        return RandomRouter(settings.routing.seed)
    return load_router(DEFAULT_ARTIFACT, settings)


def router_identity(name: str, settings: Settings) -> str | None:
    """What changes when another router takes that name; None where its artifact cannot be read, or there is none. That
    of a version is its name; `auto` is left only where nothing had to be scored."""
    from routing_service.routers.artifact import METADATA

    if name == AUTO or version_number(name) is not None:
        return name
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
    """InvalidRequestError unless a batch may name this router: of no such name, or of a method that nobody fitted.
    Whether there is a version of that number, the database knows."""
    names = router_names(settings)
    if canonical(name) in names or version_number(name) is not None:
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
    router_type: type[Router] = getattr(import_module(module), name)
    return router_type


def load_artifact(sha256: str, settings: Settings) -> Router:
    """Load a fitted router from the artifact store. ConfigurationError without one, ArtifactError for whatever is wrong
    with the artifact."""
    return load_router(ArtifactStore.of(settings).fetch(sha256), settings)


def load_version(database: Database, number: int, settings: Settings) -> Router:
    """Load a router version. Raises as `load_artifact`, and NotFoundError for a number that there is not."""
    with database.transaction() as session:
        artifact = find(session, number).artifact
    return load_artifact(artifact, settings)


class Routers:
    """The routers of this process, each built when it is first asked for. Of versions only the last ones are kept."""

    def __init__(self, settings: Settings, database: Database | None = None) -> None:
        """Without a database there are no versions: `auto` is the built-in router."""
        self._settings, self._database = settings, database
        self._loaded: dict[str, Router] = {}
        self._versions: dict[int, Router] = {}  # the one that was used last comes last

    def get(self, name: str) -> Router:
        """The router of that name, loaded. What is wrong with a version is kept with it."""
        number = version_number(name)
        if number is not None and self._database is not None:
            return self._version(number, self._database)
        if name not in self._loaded:
            self._loaded[name] = make_router(name, self._settings)
        return self._loaded[name]

    def serving(self) -> str:
        """The name of the router that `auto` means now: the active version where it can be loaded here, else the one
        before it, else the built-in router. A version that lately failed to load anywhere is not tried again so soon.
        """
        if self._database is None:
            return BUILT_IN
        with self._database.transaction() as session:
            versions = to_serve(session)
        for number, rests in versions:
            if number in self._versions or (not rests and self._can_load(number)):
                return version_name(number)
        return BUILT_IN

    def _can_load(self, number: int) -> bool:
        try:
            self.get(version_name(number))
        except Exception:  # logged where it was raised; an older router serves
            return False
        return True

    def _version(self, number: int, database: Database) -> Router:
        router = self._versions.pop(number, None)
        if router is None:
            while len(self._versions) >= VERSIONS_LOADED:
                del self._versions[next(iter(self._versions))]
            try:
                router = load_version(database, number, self._settings)
            except Exception as error:
                log.exception("router version %d cannot be loaded", number)
                with database.transaction() as session:
                    note_failure(session, number, mask(f"{type(error).__name__}: {error}", LONGEST_FAILURE))
                raise
        self._versions[number] = router
        return router
