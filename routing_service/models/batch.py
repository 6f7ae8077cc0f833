"""Batches, and the ranges of lines in which they are scored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import (
    Base,
    BatchPurpose,
    BatchState,
    Nano,
    Now,
    pg_enum,
)


class Batch(Base):
    """What a client submitted, how far it is, and its plan (shadow price and the line at which ties are cut).

    Or a companion: calls of our own that are made as a batch, see exploration.companion.
    """

    __tablename__ = "batches"
    # What it is, and whose.
    id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    purpose: Mapped[BatchPurpose] = mapped_column(pg_enum(BatchPurpose, "batch_purpose"), server_default="client")
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))  # the batch that a companion is about
    continues: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))  # whose unanswered lines its own are
    input_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    output_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    error_file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))

    # What was asked for.
    endpoint: Mapped[str]
    completion_window: Mapped[str]
    client_metadata: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    options: Mapped[dict[str, Any]] = mapped_column(JSONB)  # BatchOptions, as asked for
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)  # of what create was asked for
    model: Mapped[str | None]  # the alias that every line names, known once ingested
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="5")

    # Who may answer, and who decides it.
    router: Mapped[str]
    router_version_id: Mapped[int | None] = mapped_column(ForeignKey("router_versions.id"))
    candidates: Mapped[list[str]] = mapped_column(ARRAY(Text))  # cheapest first
    strong_input_price: Mapped[int] = mapped_column(BigInteger)  # nano-dollars a million tokens, for savings
    strong_output_price: Mapped[int] = mapped_column(BigInteger)

    # How far it is. See the times below, too.
    state: Mapped[BatchState] = mapped_column(pg_enum(BatchState, "batch_state"))
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    error_count: Mapped[int] = mapped_column(server_default="0")
    line_priorities: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger), server_default="{5}")  # the highest first
    total: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")  # failed, unaffordable, expired and cancelled requests
    duplicates: Mapped[int] = mapped_column(server_default="0")  # requests that are duplicates of others
    duplicates_saved_nano: Mapped[Nano] = mapped_column(server_default="0")
    cached_saved_nano: Mapped[Nano] = mapped_column(server_default="0")

    # Scoring.
    unscored: Mapped[bool] = mapped_column(server_default=text("false"))
    unscored_reason: Mapped[str | None]

    # The plan: its cut, and what it is expected to bring.
    cost_power: Mapped[float] = mapped_column(Double, server_default="1")  # the plan's damping, see planning.Damping
    mean_extra_nano: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))  # by candidate; none: no damping
    shadow_price: Mapped[float | None] = mapped_column(Double)  # gain per dollar
    cut_line: Mapped[int | None]
    expected_gain: Mapped[float | None] = mapped_column(Double)
    expected_cost_nano: Mapped[int | None] = mapped_column(BigInteger)

    # The plan while answers come in: corrections, and what waits for them.
    replan_at: Mapped[int] = mapped_column(server_default="0")  # so many finished requests make a new cut worthwhile
    drift_nano: Mapped[Nano] = mapped_column(server_default="0")  # settled less expected since the last cut
    cost_factors: Mapped[list[float] | None] = mapped_column(ARRAY(Double))  # settled / expected cost, by candidate
    probes: Mapped[int | None] = mapped_column(SmallInteger)  # first calls to each candidate, see plans.probing
    reserve_ratio: Mapped[float | None] = mapped_column(Double)  # of the last line held back, see plans.holdback
    reserve_line: Mapped[int | None]

    # Money that is kept for what is not sent yet.
    floor_nano: Mapped[Nano] = mapped_column(server_default="0")  # expected weak cost of what is not yet dispatched
    floor_factor: Mapped[float] = mapped_column(Double, server_default="1")  # the same of what the floor holds
    dearest_nano: Mapped[Nano] = mapped_column(server_default="0")  # the largest worst case that it has reserved

    # Exploration.
    explore_nano: Mapped[Nano] = mapped_column(server_default="0")  # of its budget, set aside for exploring it
    explored_at: Mapped[datetime | None]

    # A plan that is looked at before it is approved, and pauses.
    preview: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # see plans.preview; {}: to come
    approved_at: Mapped[datetime | None]  # when its preview was told to run
    paused: Mapped[str | None]  # the cause, see batches.pauses
    paused_reason: Mapped[str | None]
    paused_needs_nano: Mapped[int | None] = mapped_column(BigInteger)  # what its key must have left for it to go on

    # Times.
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


class ScoreRange(Base):
    """A range of a batch's lines: what one score task takes."""

    __tablename__ = "score_ranges"
    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    first_line: Mapped[int] = mapped_column(primary_key=True)
    last_line: Mapped[int]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    announced_at: Mapped[datetime | None]  # none: its turn has not come, see scoring.score
    done_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("last_line >= first_line", name="lines"),
        Index("ix_score_ranges_open", "batch_id", "first_line", postgresql_where="done_at is null"),
    )
