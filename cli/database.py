"""How an operator command finds the database and reports what is wrong with it in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from routing_service.db import Database
    from routing_service.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def database_options(command: Command) -> Command:
    """Add --state-dir to an operator command."""
    return click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Ask the stack of this directory. Default: the configured database, else the default state directory.",
    )(command)


@contextmanager
def reading(state_dir: Path | None) -> Iterator[Session]:
    """A session for reading; what the database refuses becomes one clear line."""
    with opened(state_dir) as database, database.transaction() as session:
        yield session


@contextmanager
def opened(state_dir: Path | None) -> Iterator[Database]:
    """The database, for work of several transactions; errors as in `reading`."""
    from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

    from routing_service.db import Database

    database = Database(find_database(state_dir), pool_size=1)
    try:
        yield database
    except OperationalError as error:
        raise click.ClickException(f"cannot reach the database: {_first_line(error)}") from error
    except ProgrammingError as error:
        hint = "is its schema up to date? (`routebatch migrate`)"
        raise click.ClickException(f"the database does not know that: {_first_line(error)}; {hint}") from error
    except DBAPIError as error:
        raise click.ClickException(f"the database failed: {_first_line(error)}") from error
    finally:
        database.dispose()


def find_database(state_dir: Path | None) -> str:
    """The URL: of the directory given, else of the configuration, else of the default directory's stack."""
    if state_dir is None and (configured := configured_database()):
        return configured
    from deploy.errors import StackError
    from deploy.layout import StateDir

    try:
        state = StateDir.at(state_dir)
        found = state.read_stack().get("database_url")
    except (StackError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if not found:
        raise click.ClickException(
            f"no stack runs in {state.root}: start one with `routebatch up`, name another with --state-dir, "
            "or set ROUTEBATCH_DATABASE_URL"
        )
    return str(found)


def find_settings(state_dir: Path | None) -> Settings:
    """The configuration: the one of the directory's stack, else this process's, else that of the default directory.

    The upstreams' keys are no concern of it. ClickException if it is wrong.
    """
    from cli.scoring import read_settings
    from deploy.configuration import lent_environment
    from deploy.errors import StackError
    from deploy.layout import StateDir
    from routing_service.settings import config_file

    if state_dir is None and (config_file() is not None or configured_database()):
        return read_settings()
    try:
        config = StateDir.at(state_dir).read_stack().get("config")
    except (StackError, OSError) as error:
        raise click.ClickException(str(error)) from error
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


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0]
