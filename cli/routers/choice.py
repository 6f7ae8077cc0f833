"""Which router a command works with, and which two models it compares: --router, --strong and --weak.

A router is named by a directory that `train` wrote, by its name in the configuration, by a method's name, or by a
router version of the database (`12`, `version-12`; `auto` is the active one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.options import check_pair, pair_options
from cli.progress import spinner
from cli.stack_access import read_settings, stack_settings, transaction

if TYPE_CHECKING:
    from routing_service.routers.registry import Router
    from routing_service.settings import Settings

ROLES = ("strong", "weak")  # what a router calls its own pair

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Chosen:
    """A router, and the two models that it is to compare."""

    router: Router
    strong: str
    weak: str


def router_option(command: Command) -> Command:
    """--router: one of them."""
    return click.option(
        "--router",
        "wanted",
        metavar="DIR|NAME",
        help="Use this router: a directory that `train` wrote, a router's name, or a router version (12, version-12; "
        "auto: the active one). Default: the configured router; without any, gain.",
    )(command)


# For routers that know more models than two.
router_pair_options = pair_options(
    "Compare this strong model. Default: the dearest of the configured candidates; without any, the router's own.",
    "Compare this weak model. Default: the cheapest of the configured candidates; without any, the router's own.",
)


def choose(
    wanted: str | None,
    strong: str | None,
    weak: str | None,
    settings: Settings | None = None,
    state_dir: Path | None = None,
) -> Chosen:
    """The router of that name or in that directory, the configured one for None, and its pair."""
    check_pair(strong, weak)
    if strong is not None and strong == weak:
        raise click.UsageError("--strong and --weak name the same model: name two")
    settings = settings or read_settings()
    router = find_router(wanted, settings, state_dir)
    if strong is not None and weak is not None:
        return Chosen(router, strong, weak)
    candidates = settings.candidates
    return Chosen(router, *((candidates[-1], candidates[0]) if len(candidates) > 1 else ROLES))


def find_router(wanted: str | None, settings: Settings | None = None, state_dir: Path | None = None) -> Router:
    """The router of that name or in that directory; the configured one for None, which asks no database of `auto`.

    `state_dir`: whose versions are meant, as of the operator commands.
    """
    from routing_service.routers.registry import AUTO, METHODS, canonical, load_router, make_router, router_names

    settings = settings or read_settings()
    name = wanted or settings.routing.router
    names = router_names(settings)
    with spinner(f"loading the router {name}"):
        if canonical(name) not in names and Path(name).is_dir():
            return load_router(Path(name), settings)
        if (number := version_number(name)) is not None:
            return load_version(number, state_dir, settings)
        if wanted == AUTO:
            return load_active(state_dir, settings)
        if canonical(name) in (*METHODS, *names):
            return make_router(name, settings)
    raise click.UsageError(f"--router {name}: no such directory, and no router's name ({', '.join(names)})")


def load_version(number: int, state_dir: Path | None = None, base: Settings | None = None) -> Router:
    """That router version, from the artifact store."""
    from routing_service.router_versions.versions import find
    from routing_service.routers.registry import load_artifact

    settings = stack_settings(state_dir, base)
    with transaction(state_dir) as session:
        artifact = find(session, number).artifact
    return load_artifact(artifact, settings)


def load_active(state_dir: Path | None = None, base: Settings | None = None) -> Router:
    """The champion, which batches that name no router are routed by: the active version, else the built-in router."""
    from routing_service.router_versions.versions import active
    from routing_service.routers.registry import BUILT_IN, make_router

    with transaction(state_dir) as session:
        version = active(session)
    return load_version(version.id, state_dir, base) if version else make_router(BUILT_IN, base or read_settings())


def version_number(name: str) -> int | None:
    """The number in `12` or `version-12`; None for other names."""
    from routing_service.router_versions import versions

    return versions.version_number(versions.version_name(int(name)) if name.isascii() and name.isdigit() else name)
