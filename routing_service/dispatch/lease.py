"""A pump's lease: one row, on the database's clock. While it holds, what the pump claimed is its own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.errors import LeaseLostError
from routing_service.upstream.limiter import Share

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Lease:
    """`held_until` is this process's own, earlier view of the expiry (monotonic clock)."""

    pump_id: int
    seconds: float
    held_until: float
    share: Share  # this pump among those with a live lease

    def check(self) -> None:
        """Raise LeaseLostError unless the lease surely holds."""
        if time.monotonic() >= self.held_until:
            raise LeaseLostError(f"pump {self.pump_id}'s lease ran out")


# The newest comes first: an older one may only wait for its last calls, and leave its part unused.
_LIVE = "select count(*), count(*) filter (where id > :id) from pumps where expires_at > now()"


def _share(session: Session, pump_id: int) -> Share:
    pumps, rank = session.execute(text(_LIVE), {"id": pump_id}).one()
    return Share(max(1, pumps), rank)


def open_lease(database: Database, seconds: float) -> Lease:
    asked = time.monotonic()
    with database.transaction() as session:
        pump_id = session.scalar(
            text(
                "insert into pumps (host, pid, expires_at)"
                " values (:host, :pid, now() + make_interval(secs => :seconds)) returning id"
            ),
            {"host": socket.gethostname(), "pid": os.getpid(), "seconds": seconds},
        )
        assert pump_id is not None
        return Lease(pump_id, seconds, asked + seconds, _share(session, pump_id))


def renew_lease(database: Database, lease: Lease) -> None:
    """Extend a lease that has not run out. One that has is never taken up again."""
    asked = time.monotonic()
    with database.transaction() as session:
        renewed = session.scalar(
            text(
                "update pumps set expires_at = now() + make_interval(secs => :seconds)"
                " where id = :id and expires_at > now() returning id"
            ),
            {"seconds": lease.seconds, "id": lease.pump_id},
        )
        lease.held_until = asked + lease.seconds if renewed is not None else 0.0
        lease.share = _share(session, lease.pump_id)


def close_lease(database: Database, lease: Lease) -> None:
    """Give the lease back, so that the sweep need not wait for it."""
    with database.transaction() as session:
        session.execute(
            text("update pumps set expires_at = least(expires_at, now()) where id = :id"), {"id": lease.pump_id}
        )


async def keep_renewing(database: Database, lease: Lease, every_s: float) -> None:
    """Renew the lease until this is cancelled."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(renew_lease, database, lease)
        except OperationalError as error:
            log.warning("the lease could not be renewed: %s", error.__class__.__name__)


async def run_while_leased(lease: Lease, work: Callable[[], T]) -> T:
    """Run database work in a thread; while the database is away, try again for as long as the lease holds."""
    while True:
        try:
            return await asyncio.to_thread(work)
        except OperationalError as error:
            log.warning("the database is away, trying again: %s", error.__class__.__name__)
            await asyncio.sleep(1)
            lease.check()
