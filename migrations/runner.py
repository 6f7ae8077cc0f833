"""Alembic, driven from Python: where the scripts are, and how to bring a database up or down."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine


def configuration(url: str) -> Config:
    """An alembic configuration without an ini file: the scripts of this package and the database's URL."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    command.upgrade(configuration(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    command.downgrade(configuration(url), revision)


def revisions(url: str) -> tuple[str | None, str | None]:
    """(the database's revision, the newest that this code knows)."""
    head = ScriptDirectory.from_config(configuration(url)).get_current_head()
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision(), head
    finally:
        engine.dispose()
