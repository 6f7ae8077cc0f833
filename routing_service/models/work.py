"""The work: batches, their requests, score ranges, decisions, and the pumps that hold leases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import Base, BatchPurpose, BatchState, Nano, Now, Reason, RequestState, pg_enum

BATCH_STATE = pg_enum(BatchState, "batch_state")
REQUEST_STATE = pg_enum(RequestState, "request_state")
REASON = pg_enum(Reason, "reason")


class Batch(Base):
    """What a client submitted, how far it is, and its plan (shadow price and the line at which ties are cut).

    Or a companion: calls of our own that are made as a batch, see batches.companion.
    """

    __tablename__ = "batches"
    id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    purpose: Mapped[BatchPurpose] = mapped_column(pg_enum(BatchPurpose, "batch_purpose"), server_default="client")
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))  # the batch that a companion is about
    input_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    output_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    error_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    continues: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))  # whose unanswered lines these are
    endpoint: Mapped[str]
    completion_window: Mapped[str]
    client_metadata: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    options: Mapped[dict[str, Any]] = mapped_column(JSONB)  # BatchOptions, as asked for
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)  # of what create was asked for
    model: Mapped[str | None]  # the alias that every line names, known once ingested
    router: Mapped[str]
    router_version_id: Mapped[int | None] = mapped_column(ForeignKey("router_versions.id"))
    candidates: Mapped[list[str]] = mapped_column(ARRAY(Text))  # cheapest first
    strong_input_price: Mapped[int] = mapped_column(BigInteger)  # nano-dollars a million tokens, for savings
    strong_output_price: Mapped[int] = mapped_column(BigInteger)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="5")
    line_priorities: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger), server_default="{5}")  # the highest first
    state: Mapped[BatchState] = mapped_column(BATCH_STATE)
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    error_count: Mapped[int] = mapped_column(server_default="0")
    total: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")  # failed, unaffordable, expired and cancelled requests
    duplicates: Mapped[int] = mapped_column(server_default="0")  # requests that are duplicates of others
    duplicates_saved_nano: Mapped[Nano] = mapped_column(server_default="0")
    cached_saved_nano: Mapped[Nano] = mapped_column(server_default="0")
    floor_nano: Mapped[Nano] = mapped_column(server_default="0")  # expected weak cost of what is not yet dispatched
    dearest_nano: Mapped[Nano] = mapped_column(server_default="0")  # the largest worst case that it has reserved
    cost_power: Mapped[float] = mapped_column(Double, server_default="1")  # the plan's damping, see planning.Damping
    mean_extra_nano: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))  # by candidate; none: no damping
    shadow_price: Mapped[float | None] = mapped_column(Double)  # gain per dollar
    cut_line: Mapped[int | None]
    replan_at: Mapped[int] = mapped_column(server_default="0")  # so many finished requests make a new cut worthwhile
    probes: Mapped[int | None] = mapped_column(SmallInteger)  # calls to each candidate before the rest; see probing
    cost_factors: Mapped[list[float] | None] = mapped_column(ARRAY(Double))  # settled / expected cost, by candidate
    floor_factor: Mapped[float] = mapped_column(Double, server_default="1")  # the same of what the floor holds
    reserve_ratio: Mapped[float | None] = mapped_column(Double)  # the last line of the cheap ones kept back
    reserve_line: Mapped[int | None]
    drift_nano: Mapped[Nano] = mapped_column(server_default="0")  # settled less expected since the last cut
    expected_gain: Mapped[float | None] = mapped_column(Double)
    expected_cost_nano: Mapped[int | None] = mapped_column(BigInteger)
    unscored: Mapped[bool] = mapped_column(server_default=text("false"))
    unscored_reason: Mapped[str | None]
    explore_nano: Mapped[Nano] = mapped_column(server_default="0")  # of its budget, set aside for exploring it
    explored_at: Mapped[datetime | None]
    preview: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # see batches.preview; {}: to come
    approved_at: Mapped[datetime | None]  # when its preview was told to run
    paused: Mapped[str | None]  # the cause, see batches.pausing
    paused_reason: Mapped[str | None]
    paused_needs_nano: Mapped[int | None] = mapped_column(BigInteger)  # what its key must have left for it to go on
    created_at: Mapped[Now]
    expires_at: Mapped[datetime]
    announced_at: Mapped[Now]  # when its next step was last announced; the sweep looks here
    planned_at: Mapped[datetime | None]
    in_progress_at: Mapped[datetime | None]
    finalizing_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    cancelling_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]

    @property
    def is_preview(self) -> bool:
        """It is there to show its plan; nothing of it is dispatched before it is approved."""
        return self.preview is not None and self.approved_at is None

    __table_args__ = (
        CheckConstraint("priority between 0 and 9", name="priority"),
        CheckConstraint("succeeded >= 0 and failed >= 0 and succeeded + failed <= total", name="counts"),
        CheckConstraint("duplicates between 0 and greatest(0, total - 1)", name="duplicates"),
        CheckConstraint("cardinality(candidates) >= 1", name="candidates"),
        CheckConstraint("(purpose = 'client') = (input_file_id is not null)", name="input"),
        CheckConstraint(
            "case purpose when 'client' then parent_id is null when 'explore' then parent_id is not null else true end",
            name="parent",
        ),
        CheckConstraint("floor_nano >= 0 and explore_nano >= 0", name="floor"),
        CheckConstraint("approved_at is null or preview is not null", name="approved"),
        CheckConstraint("(state = 'completed') = (completed_at is not null)", name="completed"),
        CheckConstraint("(state = 'cancelled') = (cancelled_at is not null)", name="cancelled"),
        CheckConstraint("(state = 'failed') = (failed_at is not null)", name="failed_at"),
        CheckConstraint("(state = 'expired') = (expired_at is not null)", name="expired"),
        Index("uq_batches_idempotency", "api_key_id", "idempotency_key", unique=True),
        Index(
            "uq_batches_continues",
            "continues",
            unique=True,
            postgresql_where=text("continues is not null and state <> 'failed'"),
        ),
        Index("uq_batches_explore", "parent_id", unique=True, postgresql_where=text("purpose = 'explore'")),
        Index("ix_batches_to_explore", "id", postgresql_where="explore_nano > 0 and explored_at is null"),
        Index("ix_batches_list", "api_key_id", text("created_at desc"), text("id desc")),
        Index(
            "ix_batches_open",
            "state",
            postgresql_where="state in ('validating', 'in_progress', 'finalizing', 'cancelling')",
        ),
    )


class Request(Base):
    """One line of a batch, its scores, and its answer."""

    __tablename__ = "requests"
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
    twin_of: Mapped[int | None]  # the line that is asked in this one's stead; this one ends as that one did
    answers: Mapped[int] = mapped_column(server_default="1")  # lines that its answer serves: its own and its duplicates
    call_digest: Mapped[bytes | None] = mapped_column(LargeBinary)  # where its answer may be reused, see batches.reuse
    state: Mapped[RequestState] = mapped_column(REQUEST_STATE, server_default="queued")
    win_rate: Mapped[float | None] = mapped_column(REAL)
    quality: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))  # by candidate
    std: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))  # of the quality; kept for previews only
    expected_cost_nano: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))  # by candidate
    ratio: Mapped[float | None] = mapped_column(Double)  # gain per dollar of the better model
    floor_nano: Mapped[Nano] = mapped_column(server_default="0")  # its share of the batch's floor
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # attempts that count against their limit
    losses: Mapped[int] = mapped_column(
        SmallInteger, server_default="0"
    )  # how often its worker died, see dispatch.quarantine
    fallback: Mapped[str | None]  # the model that it goes to now, after others that did not answer it
    not_before: Mapped[datetime | None]
    pump_id: Mapped[int | None] = mapped_column(ForeignKey("pumps.id"))
    model: Mapped[str | None]  # who answered
    reason: Mapped[Reason | None] = mapped_column(REASON)
    cost_nano: Mapped[Nano] = mapped_column(server_default="0")  # settled over all its attempts
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    request_id: Mapped[str | None]
    response: Mapped[
        str | None
    ]  # the upstream's body, as JSON text; a duplicate's stands with the line it is a duplicate of
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


class ScoreRange(Base):
    """A range of a batch's lines: what one score task takes."""

    __tablename__ = "score_ranges"
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    first_line: Mapped[int] = mapped_column(primary_key=True)
    last_line: Mapped[int]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    announced_at: Mapped[datetime | None]  # none: its turn has not come, see batches.ranges
    done_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("last_line >= first_line", name="lines"),
        Index("ix_score_ranges_open", "batch_id", "first_line", postgresql_where="done_at is null"),
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


class Pump(Base):
    """A dispatching process and its lease: while `expires_at` is ahead, the requests it claimed are its own."""

    __tablename__ = "pumps"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[Now]
    expires_at: Mapped[datetime] = mapped_column(index=True)
