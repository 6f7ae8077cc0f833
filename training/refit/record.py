"""The table `refits`: one at a time, each with what came of it.

Who runs holds a lock of the session for as long as it takes, on a connection that is used for nothing else: no
transaction stays open while routers are fitted. The lock goes with the process. So whoever gets it knows that a row
that says `running` belongs to a re-fit that died, and says so; that one, should it live after all (its connection was
cut), finds its row taken and leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.errors import LeaseLostError
from routing_service.models import Refit, RefitOutcome, RefitTrigger

NAME = "refit"
DIED = "its process died; nothing of it was kept"
COMPARED = (RefitOutcome.PROMOTED, RefitOutcome.REFUSED, RefitOutcome.UNCHANGED)
LONGEST_REASON = 2000  # characters

# A bigint lock is kept as two halves; that of one key as objsubid 1.
_HELD = text("""
select exists (
    select from pg_locks, hashtextextended(:name, 0) key
    where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())
      and classid::bigint = (key >> 32) & 4294967295 and objid::bigint = key & 4294967295
)
""")

__all__ = ["COMPARED", "Listed", "begin", "end", "levels", "listed", "note", "only_one"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A re-fit as it is shown: one whose process died is `died`, whether or not anybody has noted it."""

    id: int
    trigger: str
    outcome: str
    reason: str | None
    rows: int | None
    version_ids: list[int]
    started_at: datetime
    ended_at: datetime | None
    figures: dict[str, Any]


@contextmanager
def only_one(database: Database) -> Iterator[bool]:
    """Whether this is the only re-fit, which it then is until the block ends."""
    key = {"name": NAME}
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # closed at the end and not pooled: whatever happens, the lock goes with it
        alone = bool(connection.scalar(text("select pg_try_advisory_lock(hashtextextended(:name, 0))"), key))
        try:
            yield alone
        finally:
            # A server takes a moment to notice a closed connection. One that was cut holds no lock any more.
            if alone:
                with suppress(DBAPIError):
                    connection.execute(text("select pg_advisory_unlock(hashtextextended(:name, 0))"), key)


def begin(database: Database, trigger: RefitTrigger) -> int:
    """Write that a re-fit runs; its id. Only who holds the lock may."""
    with database.transaction() as session:
        session.execute(
            update(Refit)
            .where(Refit.outcome == RefitOutcome.RUNNING)
            .values(outcome=RefitOutcome.DIED, reason=DIED, ended_at=func.now())
        )
        refit = Refit(trigger=trigger)
        session.add(refit)
        session.flush()
        return refit.id


def note(database: Database, refit_id: int, **values: Any) -> None:
    """Add to a running re-fit's row. LeaseLostError where it runs no more."""
    with database.transaction() as session:
        _update(session, refit_id, values)


def end(session: Session, refit_id: int, outcome: RefitOutcome, reason: str | None, **values: Any) -> None:
    """Say what came of it, in the transaction that makes it so. LeaseLostError where another re-fit has begun."""
    said = {"outcome": outcome, "reason": reason[:LONGEST_REASON] if reason else reason, "ended_at": func.now()}
    _update(session, refit_id, values | said)


def _update(session: Session, refit_id: int, values: dict[str, Any]) -> None:
    mine = (Refit.id == refit_id, Refit.outcome == RefitOutcome.RUNNING)
    if session.execute(update(Refit).where(*mine).values(**values).returning(Refit.id)).first() is None:
        raise LeaseLostError(f"re-fit {refit_id} lost its lock, and another one has begun")


def levels(session: Session) -> dict[str, Any]:
    """What drift is measured against: `similarity` and `calibration` as they were at the last re-fit that has them."""
    compared = select(Refit.figures).where(Refit.outcome.in_(COMPARED)).order_by(Refit.id.desc()).limit(1)
    figures = session.scalar(compared) or {}
    return {name: figures.get(name) for name in ("similarity", "calibration")}


def listed(session: Session, last: int) -> list[Listed]:
    """The last re-fits, the newest first."""
    refits = session.scalars(select(Refit).order_by(Refit.id.desc()).limit(last)).all()
    return [_listed(refit, died=_has_died(session, refit)) for refit in refits]


def _has_died(session: Session, refit: Refit) -> bool:
    if refit.outcome is not RefitOutcome.RUNNING or session.scalar(_HELD, {"name": NAME}):
        return False
    session.refresh(refit)  # it may have ended between the two looks
    return refit.outcome is RefitOutcome.RUNNING


def _listed(refit: Refit, *, died: bool) -> Listed:
    return Listed(
        refit.id,
        refit.trigger.value,
        RefitOutcome.DIED.value if died else refit.outcome.value,
        DIED if died else refit.reason,
        refit.rows,
        refit.version_ids,
        refit.started_at,
        refit.ended_at,
        refit.figures,
    )
