"""What dispatching processes share: their leases, and which models cannot be used now."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    SmallInteger,
)
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import (
    Base,
    CircuitCause,
    Now,
    pg_enum,
)


class Pump(Base):
    """A dispatching process and its lease: while `expires_at` is ahead, the requests it claimed are its own."""

    __tablename__ = "pumps"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[Now]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ModelCircuit(Base):
    """The circuit of a model as one configuration reaches it. Open while `cause` is set, half open from `trial_at`."""

    __tablename__ = "model_circuits"
    model: Mapped[str] = mapped_column(primary_key=True)
    upstream: Mapped[str] = mapped_column(primary_key=True)  # ModelSettings.fingerprint
    failures: Mapped[int] = mapped_column(server_default="0")  # in a row
    failed_at: Mapped[datetime | None]
    cause: Mapped[CircuitCause | None] = mapped_column(pg_enum(CircuitCause, "circuit_cause"))
    opened_at: Mapped[datetime | None]
    trial_at: Mapped[datetime | None]  # from then on one call may find out
    trials: Mapped[int] = mapped_column(server_default="0")  # since it opened
    status_code: Mapped[int | None] = mapped_column(SmallInteger)  # of the last failure
    message: Mapped[str | None]
    answered_at: Mapped[datetime | None]  # when the last call that closed it was sent
    __table_args__ = (
        CheckConstraint("failures >= 0 and trials >= 0", name="counts"),
        CheckConstraint("(cause is null) = (opened_at is null) and (cause is null) = (trial_at is null)", name="open"),
    )
