"""Requests, the lines of a batch, and the decisions that say why each went to its model."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
)
from sqlalchemy.dialects.postgresql import ARRAY, REAL
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import (
    Base,
    Nano,
    Now,
    Reason,
    RequestState,
    pg_enum,
)

REASON = pg_enum(Reason, "reason")


class Request(Base):
    """One line of a batch, its scores, and its answer."""

    __tablename__ = "requests"
    # What is asked.
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    custom_id: Mapped[str]
    body: Mapped[str]  # the chat body, as JSON text
    pinned: Mapped[str | None]
    source_line: Mapped[int | None]  # of a companion: the line of its parent that this is about
    propensity: Mapped[float | None] = mapped_column(REAL)  # of its being asked at all; none: it was certain
    max_cost_nano: Mapped[int | None] = mapped_column(BigInteger)
    input_bytes: Mapped[int]  # UTF-8 bytes of serialised messages, tools and response format
    output_cap: Mapped[int | None]  # the client's own cap on a choice's tokens
    choices: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="5")  # within its batch

    # Who else is asked the same.
    twin_of: Mapped[int | None]  # the line that is asked in this one's stead; this one ends as that one did
    answers: Mapped[int] = mapped_column(server_default="1")  # lines that its answer serves: its own and its duplicates
    call_digest: Mapped[bytes | None] = mapped_column(LargeBinary)  # of one whose answer may be reused

    # Scores, and what the plan makes of them.
    win_rate: Mapped[float | None] = mapped_column(REAL)
    quality: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))  # by candidate
    std: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))  # of the quality; kept for previews only
    expected_cost_nano: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))  # by candidate
    ratio: Mapped[float | None] = mapped_column(Double)  # gain per dollar of the better model
    floor_nano: Mapped[Nano] = mapped_column(server_default="0")  # its share of the batch's floor

    # How far it is.
    state: Mapped[RequestState] = mapped_column(pg_enum(RequestState, "request_state"), server_default="queued")
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # attempts that count against their limit
    losses: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # see dispatch.quarantine
    fallback: Mapped[str | None]  # the model that it goes to now, after others that did not answer it
    not_before: Mapped[datetime | None]
    pump_id: Mapped[int | None] = mapped_column(ForeignKey("pumps.id"))

    # What came of it.
    model: Mapped[str | None]  # who answered
    reason: Mapped[Reason | None] = mapped_column(REASON)
    cost_nano: Mapped[Nano] = mapped_column(server_default="0")  # settled over all its attempts
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    request_id: Mapped[str | None]
    response: Mapped[str | None]  # the upstream's body, as JSON text; a duplicate's stands with the line in `twin_of`
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("uq_requests_custom_id", "batch_id", "custom_id", unique=True),
        Index("ix_requests_claim", "batch_id", "priority", "ratio", "line", postgresql_where="state = 'scored'"),
        Index("ix_requests_alone", "batch_id", postgresql_where="state = 'scored' and losses >= 2"),
        Index(
            "ix_requests_reuse",
            "call_digest",
            "model",
            postgresql_where="call_digest is not null and state = 'succeeded'",
        ),
        Index("ix_requests_reuse_age", "finished_at", postgresql_where="call_digest is not null"),
        CheckConstraint("line >= 1 and input_bytes >= 0 and choices >= 1 and attempts >= 0", name="bounds"),
        CheckConstraint("priority between 0 and 9", name="priority"),
        CheckConstraint("(state = 'dispatching') = (pump_id is not null)", name="claimed"),
        CheckConstraint("state in ('queued', 'scored', 'dispatching') or finished_at is not null", name="finished"),
        CheckConstraint("state <> 'succeeded' or response is not null or twin_of is not null", name="answered"),
        CheckConstraint("answers >= 1 and twin_of < line", name="twins"),
        CheckConstraint(
            "twin_of is null or (state not in ('scored', 'dispatching') and attempts = 0 and cost_nano = 0"
            " and floor_nano = 0 and response is null)",
            name="twins_are_never_asked",
        ),
    )


class Decision(Base):
    """Why a request went where it went, at each attempt. Appended when it is dispatched, never changed."""

    __tablename__ = "decisions"
    batch_id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)  # the attempt it led to
    model: Mapped[str]
    reason: Mapped[Reason] = mapped_column(REASON)
    win_rate: Mapped[float | None] = mapped_column(REAL)
    gain: Mapped[float | None] = mapped_column(REAL)
    shadow_price: Mapped[float | None] = mapped_column(Double)
    propensity: Mapped[float] = mapped_column(REAL, server_default="1")
    router_version_id: Mapped[int | None] = mapped_column(ForeignKey("router_versions.id"))
    created_at: Mapped[Now]
