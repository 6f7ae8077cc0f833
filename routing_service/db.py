"""The database: one engine a process, a session factory, and `transaction()`, the one way to a unit of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session, sessionmaker


class Database:
    """An engine and its sessions. Made where a process starts and handed down; nothing is opened at import.

    Make it after a fork: pooled connections must not be shared between processes.
    """

    def __init__(self, url: str, *, pool_size: int = 5, max_overflow: int = 15) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            hide_parameters=True,  # prompts and answers do not belong into logs and errors
            connect_args={"application_name": "routebatch", "connect_timeout": 10},
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or rolled back if the block raises.

        No network call belongs inside: commit first, then publish or send.
        """
        with self._sessions.begin() as session:
            yield session

    def dispose(self) -> None:
        self.engine.dispose()


def lock(session: Session, name: str) -> None:
    """Take a named advisory lock until the transaction ends, once nobody else holds it."""
    session.execute(text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})


def try_lock(session: Session, name: str) -> bool:
    """Take a named advisory lock until the transaction ends; False if another transaction holds it.

    Guards a use case against running twice at once: the second runner leaves it to the first.
    """
    locked = session.scalar(text("select pg_try_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
    return bool(locked)
