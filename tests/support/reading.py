"""What tests read of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from routing_service.db import Database
from routing_service.models import Batch, Request


def batch_of(database: Database, batch_id: str) -> Batch:
    with database.transaction() as session:
        return session.get_one(Batch, batch_id)


def upgraded(database: Database, batch: Batch) -> Sequence[Request]:
    """The requests that the stored cut sends to the strong model."""
    rule = (Request.ratio > batch.shadow_price) | (
        (Request.ratio == batch.shadow_price) & (Request.line <= batch.cut_line)
    )
    with database.transaction() as session:
        return session.scalars(select(Request).where(Request.batch_id == batch.id, rule)).all()
