"""Which database and which configuration an operator command uses: the stack's, or the configured ones.

With --state-dir they are those of the stack in that directory. Without it they are the configured ones (environment,
routebatch.toml); where none are configured, those of the stack in the default state directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from routing_service.db import Database
    from routing_service.settings import Settings


@contextmanager
def transaction(state_dir: Path | None) -> Iterator[Session]:
    """One transaction on the database; it is committed at the end of the block."""
    with open_database(state_dir) as database, database.transaction() as session:
        yield session


@contextmanager
def open_database(state_dir: Path | None) -> Iterator[Database]:
    """The database, for work of several transactions."""
    from routing_service.db import Database

    database = Database(find_database(state_dir), pool_size=1)
    try:
        yield database
    finally:
        database.dispose()


def find_database(state_dir: Path | None) -> str:
    """The database's URL. ClickException where no stack runs and none is configured."""
    if state_dir is None and (configured := configured_database()):
        return configured
    from deploy.layout import StateDir

    state = StateDir.at(state_dir)
    url = state.read_stack().get("database_url")
    if not url:
        raise click.ClickException(
            f"no stack runs in {state.root}: start one with `routebatch up`, name another with --state-dir, "
            "or set ROUTEBATCH_DATABASE_URL"
        )
    return str(url)


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


def stack_settings(state_dir: Path | None, base: Settings | None = None) -> Settings:
    """The configuration, with the database and the artifact store that the workers of the stack that runs were told."""
    from pydantic import SecretStr

    settings = base or find_settings(state_dir)
    database = {"database_url": SecretStr(find_database(state_dir))}
    if state_dir is None and (settings.artifact_url or configured_database()):
        return settings.model_copy(update=database)
    from deploy.layout import StateDir

    state = StateDir.at(state_dir)
    url = state.read_stack().get("artifact_url") or str(state.artifacts)
    return settings.model_copy(update={**database, "artifact_url": str(url)})


def find_settings(state_dir: Path | None) -> Settings:
    """The configuration; the upstreams' keys need not be there. ClickException if it is wrong."""
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


def read_settings() -> Settings:
    """The configuration of this process, for work without a stack; the upstreams' keys need not be there.
    ClickException if it is wrong."""
    from routing_service.settings import Settings

    try:
        return Settings()
    except ValueError as error:
        raise click.ClickException(f"the configuration is wrong, `routebatch doctor` says where: {error}") from error
