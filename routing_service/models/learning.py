"""What is learned from and what comes of it: feedback, comparisons, ratings, router versions, evaluations, lengths."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    SmallInteger,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, REAL
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import (
    Base,
    ComparisonSource,
    Id,
    Now,
    RefitOutcome,
    RefitTrigger,
    VersionState,
    pg_enum,
)

SOURCE = pg_enum(ComparisonSource, "comparison_source")


class Comparison(Base):
    """Two models on one prompt. `outcome` is 1 where model_a's answer is preferred, 0 where model_b's, soft between."""

    __tablename__ = "comparisons"
    id: Mapped[Id]
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # of its content, or of the request voted on
    source: Mapped[ComparisonSource] = mapped_column(SOURCE)
    prompt: Mapped[str]
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    line: Mapped[int | None]
    model_a: Mapped[str]
    model_b: Mapped[str]
    outcome: Mapped[float] = mapped_column(REAL)
    weight: Mapped[float] = mapped_column(REAL, server_default="1")
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[Now]
    __table_args__ = (
        CheckConstraint("outcome between 0 and 1", name="outcome"),
        CheckConstraint("weight > 0", name="weight"),
        CheckConstraint("model_a <> model_b", name="two_models"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
        Index("ix_comparisons_created_at", "created_at", postgresql_using="brin"),
    )


class Rating(Base):
    """A 1-5 score of one model's answer, by a judge or a client."""

    __tablename__ = "ratings"
    id: Mapped[Id]
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    source: Mapped[ComparisonSource] = mapped_column(SOURCE)
    prompt: Mapped[str]
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    line: Mapped[int | None]
    model: Mapped[str]
    score: Mapped[int] = mapped_column(SmallInteger)
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[Now]
    __table_args__ = (
        CheckConstraint("score between 1 and 5", name="score"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
    )


class Feedback(Base):
    """What a client says of the answer to one of its requests: a vote, the last one. A comparison or a rating is made
    of it, see batches.feedback."""

    __tablename__ = "feedback"
    batch_id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    rating: Mapped[int | None] = mapped_column(SmallInteger)  # thumbs: 1 or -1
    score: Mapped[int | None] = mapped_column(SmallInteger)
    preferred: Mapped[str | None]  # a model, or a text
    created_at: Mapped[Now]
    __table_args__ = (
        ForeignKeyConstraint(["batch_id", "line"], ["requests.batch_id", "requests.line"]),
        CheckConstraint("num_nonnulls(rating, score, preferred) = 1", name="one_vote"),
        CheckConstraint("rating in (-1, 1)", name="rating"),
        CheckConstraint("score between 1 and 5", name="score"),
    )


class Judgement(Base):
    """A question to a judge, which is a line of a companion batch, and its raw verdict. See training.label.judge."""

    __tablename__ = "judgements"
    batch_id: Mapped[str] = mapped_column(primary_key=True)  # the companion
    line: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[str] = mapped_column(ForeignKey("batches.id"))  # the request whose answers are judged
    parent_line: Mapped[int]
    template: Mapped[str]
    judge: Mapped[str]  # the configured name of the model that is asked
    model_a: Mapped[str]  # whose answer is shown first, or alone
    model_b: Mapped[str | None]
    swapped: Mapped[bool] = mapped_column(server_default=text("false"))  # the weak model's answer is shown first
    verdict: Mapped[str | None]  # none: not read yet
    read_at: Mapped[datetime | None]
    __table_args__ = (
        ForeignKeyConstraint(["batch_id", "line"], ["requests.batch_id", "requests.line"]),
        CheckConstraint(
            "verdict in ('a', 'b', 'tie', '1', '2', '3', '4', '5', 'unparsed', 'unanswered')", name="verdict"
        ),
        CheckConstraint("(verdict is null) = (read_at is null)", name="read"),
        Index("ix_judgements_parent", "parent_id", "parent_line"),
        Index("ix_judgements_unread", "batch_id", postgresql_where=text("verdict is null")),
    )


class RouterVersion(Base):
    """One fitted router: where its artifact is, what it was fitted on. At most one is active."""

    __tablename__ = "router_versions"
    id: Mapped[Id]
    method: Mapped[str]
    artifact: Mapped[str] = mapped_column(unique=True)  # sha256 of the artifact: its name in the artifact store
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[VersionState] = mapped_column(pg_enum(VersionState, "version_state"), server_default="candidate")
    created_at: Mapped[Now]
    activated_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]  # when it could last not be loaded somewhere
    failure: Mapped[str | None]
    __table_args__ = (
        Index("uq_router_versions_active", "state", unique=True, postgresql_where=text("state = 'active'")),
        CheckConstraint("artifact ~ '^[0-9a-f]{64}$'", name="artifact"),
        CheckConstraint("(failed_at is null) = (failure is null)", name="failure"),
    )


class Promotion(Base):
    """A change of which router version is active: none from here on where it names none. Only added to."""

    __tablename__ = "promotions"
    id: Mapped[Id]
    router_version_id: Mapped[int | None] = mapped_column(ForeignKey("router_versions.id"))
    beneath_id: Mapped[int | None] = mapped_column(ForeignKey("promotions.id"))  # what a rollback goes back to
    rolled_back: Mapped[bool] = mapped_column(server_default=text("false"))
    reason: Mapped[str]
    created_at: Mapped[Now]
    __table_args__ = (CheckConstraint("router_version_id is not null or rolled_back", name="version"),)


class Evaluation(Base):
    """A router version's figures on one data set."""

    __tablename__ = "evaluations"
    id: Mapped[Id]
    router_version_id: Mapped[int] = mapped_column(ForeignKey("router_versions.id"))
    dataset: Mapped[str]
    fingerprint: Mapped[str]
    metrics: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[Now]


class Refit(Base):
    """A re-fit: what it was made of, what came of it and why. `running` without its lock has died."""

    __tablename__ = "refits"
    id: Mapped[Id]
    trigger: Mapped[RefitTrigger] = mapped_column(pg_enum(RefitTrigger, "refit_trigger"))
    outcome: Mapped[RefitOutcome] = mapped_column(pg_enum(RefitOutcome, "refit_outcome"), server_default="running")
    reason: Mapped[str | None]
    rows: Mapped[int | None]  # comparisons in its snapshot
    last_comparison_id: Mapped[int | None] = mapped_column(BigInteger)  # the newest of them
    fingerprint: Mapped[str | None]  # of the snapshot
    basis: Mapped[str | None]  # of everything that decides what comes of it
    version_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default="{}")  # the best candidate first
    figures: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    started_at: Mapped[Now]
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("(outcome = 'running') = (ended_at is null)", name="ended"),
        CheckConstraint("outcome in ('running', 'promoted') or reason is not null", name="reason"),
        Index("uq_refits_running", "outcome", unique=True, postgresql_where=text("outcome = 'running'")),
    )


class FittedLengths(Base):
    """The length model in force of one configured model: a new fit replaces the row and so has another id."""

    __tablename__ = "length_models"
    id: Mapped[Id]
    model: Mapped[str]  # the configured name
    upstream_model: Mapped[str]
    data: Mapped[bytes] = mapped_column(LargeBinary)  # LengthModel.to_bytes
    rows: Mapped[int]  # answers that it was fitted on
    last_attempt_id: Mapped[int] = mapped_column(BigInteger)  # the newest of them
    metrics: Mapped[dict[str, float]] = mapped_column(JSONB)  # see LengthModel
    fitted_at: Mapped[Now]
    __table_args__ = (
        Index("uq_length_models_model", "model", "upstream_model", unique=True),
        CheckConstraint("rows > 0", name="rows"),
    )
