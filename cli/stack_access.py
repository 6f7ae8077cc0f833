"""How an operator command finds the database and reports what is wrong with it in one line.

How commands find router versions: by number or name, in the database and the artifact store of a stack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import state_dir_option

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from routing_service.db import Database
    from routing_service.models import RouterVersion
    from routing_service.routers.registry import Router
    from routing_service.settings import Settings

database_options = state_dir_option(
    "Ask the stack of this directory. Default: the configured database, else the default state directory."
)


@contextmanager
def reading(state_dir: Path | None) -> Iterator[Session]:
    """A session for reading."""
    with opened(state_dir) as database, database.transaction() as session:
        yield session


@contextmanager
def opened(state_dir: Path | None) -> Iterator[Database]:
    """The database, for work of several transactions."""
    from routing_service.db import Database

    database = Database(find_database(state_dir), pool_size=1)
    try:
        yield database
    finally:
        database.dispose()


def find_database(state_dir: Path | None) -> str:
    """The URL: of the directory given, else of the configuration, else of the default directory's stack."""
    if state_dir is None and (configured := configured_database()):
        return configured
    from deploy.layout import StateDir

    state = StateDir.at(state_dir)
    found = state.read_stack().get("database_url")
    if not found:
        raise click.ClickException(
            f"no stack runs in {state.root}: start one with `routebatch up`, name another with --state-dir, "
            "or set ROUTEBATCH_DATABASE_URL"
        )
    return str(found)


def read_settings() -> Settings:
    """The configuration. Its models' keys are no concern of offline work. ClickException if it is wrong."""
    from routing_service.settings import Settings

    try:
        return Settings()
    except ValueError as error:
        raise click.ClickException(f"the configuration is wrong, `routebatch doctor` says where: {error}") from error


def find_settings(state_dir: Path | None) -> Settings:
    """The configuration: the one of the directory's stack, else this process's, else that of the default directory.

    The upstreams' keys are no concern of it. ClickException if it is wrong.
    """
    from deploy.configuration import lent_environment
    from deploy.layout import StateDir
    from routing_service.settings import config_file

    if state_dir is None and (config_file() is not None or configured_database()):
        return read_settings()
    config = StateDir.at(state_dir).read_stack().get("config")
    if not config:
        return read_settings()
    with lent_environment(ROUTEBATCH_CONFIG=str(config)):
        return read_settings()


def configured_database() -> str | None:
    """The database that the environment or routebatch.toml names; the models in it are no concern of a report."""
    from pydantic import ValidationError

    from routing_service.settings import Settings, config_file

    try:
        settings = Settings()
    except (ValidationError, ValueError, OSError) as error:
        problems = error.error_count() if isinstance(error, ValidationError) else 1
        message = f"{config_file() or 'the environment'} has {problems} mistakes; `routebatch doctor` names them"
        raise click.ClickException(message) from error
    return settings.database_url.get_secret_value() if "database_url" in settings.model_fields_set else None


def number_of(name: str) -> int | None:
    """The number in `12` or `version-12`; None for other names."""
    from routing_service.router_versions.versions import version_name, version_number

    return version_number(version_name(int(name)) if name.isascii() and name.isdigit() else name)


def stack_settings(state_dir: Path | None, base: Settings | None = None) -> Settings:
    """The configuration, with the database and the artifact store that an operator command of --state-dir asks: those
    of the stack that runs, which its workers have been told."""
    from pydantic import SecretStr

    settings = base or find_settings(state_dir)
    found = {"database_url": SecretStr(find_database(state_dir))}
    if state_dir is None and (settings.artifact_url or configured_database()):
        return settings.model_copy(update=found)
    from deploy.layout import StateDir

    state = StateDir.at(state_dir)
    url = state.read_stack().get("artifact_url") or str(state.artifacts)
    return settings.model_copy(update={**found, "artifact_url": str(url)})


def load_version(number: int, state_dir: Path | None = None, base: Settings | None = None) -> Router:
    """That router version. ClickException for a database that cannot be reached, RoutebatchError for the rest."""
    from routing_service.router_versions.versions import find
    from routing_service.routers.registry import load_artifact

    settings = stack_settings(state_dir, base)
    with reading(state_dir) as session:
        artifact = find(session, number).artifact
    return load_artifact(artifact, settings)


def load_active(state_dir: Path | None = None, base: Settings | None = None) -> Router:
    """The router that serves: the active version, else the built-in one."""
    from routing_service.router_versions.versions import active
    from routing_service.routers.registry import BUILT_IN, make_router

    with reading(state_dir) as session:
        version = active(session)
    return load_version(version.id, state_dir, base) if version else make_router(BUILT_IN, base or read_settings())


def router_name(number: int | None) -> str:
    """The name of the version that serves; of none the built-in router's."""
    from routing_service.router_versions.versions import version_name
    from routing_service.routers.registry import BUILT_IN

    return BUILT_IN if number is None else version_name(number)


def shown(version: RouterVersion) -> dict[str, Any]:
    """A version as JSON."""
    return {
        "id": version.id,
        "name": router_name(version.id),
        "method": version.method,
        "state": str(version.state),
        "artifact": version.artifact,
        "created_at": time_of(version.created_at),
        "activated_at": time_of(version.activated_at),
        "retired_at": time_of(version.retired_at),
        "failed_at": time_of(version.failed_at),
        "failure": version.failure,
        "details": version.details,
    }


def time_of(moment: datetime | None) -> str | None:
    """A moment in UTC, for JSON."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")


def cell(value: str | None) -> str:
    """A text or such a moment, for a table."""
    return "-" if value is None else value.replace("T", " ").removesuffix("+00:00")
