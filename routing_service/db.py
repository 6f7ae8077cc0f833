"""The database: one engine a process, a session factory, and `transaction()`, the one way to a unit of work.

`Unnest` sends many rows to one statement; `lock` and `try_lock` are named locks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Unnest:
    """Rows that go into one statement as arrays, a parameter a column, and are read there like a table.

    The statement's text is the same however many rows there are, so the server parses it once:

        PRICES = Unnest("price", {"line": "int", "nano": "bigint"})
        query = text(f"update requests set cost_nano = price.nano from {PRICES} where requests.line = price.line")
        session.execute(query, PRICES.parameters(line=[1, 2], nano=[40, 50]))

    `columns`: their Postgres types by name. The parameters are called `<name>_<column>`.
    """

    name: str
    columns: Mapping[str, str]

    def __str__(self) -> str:
        """What stands in the statement's `from`."""
        arrays = ", ".join(array(f"{self.name}_{column}", kind) for column, kind in self.columns.items())
        return f"unnest({arrays}) as {self.name}({', '.join(self.columns)})"

    def parameters(self, **values: Sequence[Any]) -> dict[str, list[Any]]:
        """The statement's parameters, from the values of every column.

        Raises ValueError for a column that is missing, unknown, or of another length than the others: Postgres would
        fill the shorter ones up with nulls.
        """
        if values.keys() != self.columns.keys():
            raise ValueError(f"{self.name} has the columns {', '.join(self.columns)}, not {', '.join(values)}")
        if len({len(column) for column in values.values()}) > 1:
            raise ValueError(f"the columns of {self.name} differ in length")
        return {f"{self.name}_{column}": list(values[column]) for column in self.columns}


def array(parameter: str, kind: str) -> str:
    """The SQL of a parameter that is a list, as an array of that Postgres type."""
    if kind == "tid":  # a list of strings travels as text[], which Postgres does not take for a tid[]
        return f"cast(cast(:{parameter} as text[]) as tid[])"
    return f"cast(:{parameter} as {kind}[])"
