"""Requests that are sent twice: by their `Idempotency-Key`, or, as SDKs retry without one, by equality with a request
of the last minutes when the client says that it is a retry."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from routing_service.errors import ConflictError
from routing_service.models import Batch

RETRY_WINDOW = timedelta(minutes=10)


class Wish(Protocol):
    """What a client asks for. `is_retry`: the client says that it sends this again."""

    @property
    def idempotency_key(self) -> str | None: ...

    @property
    def is_retry(self) -> bool: ...

    def fingerprint(self) -> bytes:
        """Equal for equal wishes, however they are sent."""


def one_at_a_time(session: Session, api_key_id: str, wish: Wish) -> None:
    """Equal wishes of a key wait for one another here; so the second one sees what the first one did."""
    same = wish.idempotency_key or wish.fingerprint().hex()
    session.execute(
        text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"create:{api_key_id}:{same}"}
    )


def earlier_batch(session: Session, api_key_id: str, wish: Wish) -> str | None:
    """The batch that this wish created before, if it did. ConflictError if its key created another one."""
    query = select(Batch).where(Batch.api_key_id == api_key_id)
    if wish.idempotency_key is not None:
        batch = session.scalar(query.where(Batch.idempotency_key == wish.idempotency_key))
        if batch is not None and batch.fingerprint != wish.fingerprint():
            raise key_was_used(f"which created {batch.id}")
        return batch.id if batch else None
    if not wish.is_retry:
        return None
    recent = query.where(
        Batch.fingerprint == wish.fingerprint(),
        Batch.idempotency_key.is_(None),
        Batch.created_at > func.now() - RETRY_WINDOW,
    )
    batch = session.scalar(recent.order_by(Batch.created_at.desc()).limit(1))
    return batch.id if batch else None


def key_was_used(for_what: str) -> ConflictError:
    return ConflictError(
        f"the idempotency key was used for another request, {for_what}",
        code="idempotency_conflict",
    )
