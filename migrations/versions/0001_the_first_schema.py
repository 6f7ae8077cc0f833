"""The first schema

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_api_keys_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_table(
        "pumps",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pumps")),
    )
    op.create_table(
        "router_versions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "state",
            sa.Enum("candidate", "active", "retired", name="version_state"),
            server_default="candidate",
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("artifact ~ '^[0-9a-f]{64}$'", name=op.f("ck_router_versions_artifact")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_router_versions")),
    )
    op.create_index(
        "uq_router_versions_active",
        "router_versions",
        ["state"],
        unique=True,
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "decisions",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "reason",
            sa.Enum("plan", "share", "threshold", "pinned", "unscored", "budget", name="reason"),
            nullable=False,
        ),
        sa.Column("win_rate", sa.REAL(), nullable=True),
        sa.Column("gain", sa.REAL(), nullable=True),
        sa.Column("shadow_price", sa.Double(), nullable=True),
        sa.Column("propensity", sa.REAL(), server_default="1", nullable=False),
        sa.Column("router_version_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["router_version_id"], ["router_versions.id"], name=op.f("fk_decisions_router_version_id_router_versions")
        ),
        sa.PrimaryKeyConstraint("batch_id", "line", "number", name=op.f("pk_decisions")),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("router_version_id", sa.BigInteger(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["router_version_id"], ["router_versions.id"], name=op.f("fk_evaluations_router_version_id_router_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Enum("batch", "batch_output", name="file_purpose"), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("errors", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "(purpose = 'batch_output') = (batch_id is not null)", name=op.f("ck_files_output_has_batch")
        ),
        sa.CheckConstraint("bytes >= 0", name=op.f("ck_files_bytes")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_files_api_key_id_api_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index(
        "ix_files_list",
        "files",
        ["api_key_id", sa.literal_column("created_at desc"), sa.literal_column("id desc")],
        unique=False,
        postgresql_where="deleted_at is null",
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("client_metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("router", sa.Text(), nullable=False),
        sa.Column("router_version_id", sa.BigInteger(), nullable=True),
        sa.Column("candidates", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("strong_input_price", sa.BigInteger(), nullable=False),
        sa.Column("strong_output_price", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "validating",
                "failed",
                "in_progress",
                "finalizing",
                "completed",
                "expired",
                "cancelling",
                "cancelled",
                name="batch_state",
            ),
            nullable=False,
        ),
        sa.Column("errors", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("error_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("succeeded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("floor_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("shadow_price", sa.Double(), nullable=True),
        sa.Column("cut_line", sa.Integer(), nullable=True),
        sa.Column("replan_at", sa.Integer(), server_default="0", nullable=False),
        sa.Column("expected_gain", sa.Double(), nullable=True),
        sa.Column("expected_cost_nano", sa.BigInteger(), nullable=True),
        sa.Column("unscored", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("in_progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finalizing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelling_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'cancelled') = (cancelled_at is not null)", name=op.f("ck_batches_cancelled")),
        sa.CheckConstraint("(state = 'completed') = (completed_at is not null)", name=op.f("ck_batches_completed")),
        sa.CheckConstraint("(state = 'expired') = (expired_at is not null)", name=op.f("ck_batches_expired")),
        sa.CheckConstraint("(state = 'failed') = (failed_at is not null)", name=op.f("ck_batches_failed_at")),
        sa.CheckConstraint("cardinality(candidates) >= 1", name=op.f("ck_batches_candidates")),
        sa.CheckConstraint("floor_nano >= 0", name=op.f("ck_batches_floor")),
        sa.CheckConstraint("priority between 0 and 9", name=op.f("ck_batches_priority")),
        sa.CheckConstraint(
            "succeeded >= 0 and failed >= 0 and succeeded + failed <= total", name=op.f("ck_batches_counts")
        ),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_batches_api_key_id_api_keys")),
        sa.ForeignKeyConstraint(["error_file_id"], ["files.id"], name=op.f("fk_batches_error_file_id_files")),
        sa.ForeignKeyConstraint(["input_file_id"], ["files.id"], name=op.f("fk_batches_input_file_id_files")),
        sa.ForeignKeyConstraint(["output_file_id"], ["files.id"], name=op.f("fk_batches_output_file_id_files")),
        sa.ForeignKeyConstraint(
            ["router_version_id"], ["router_versions.id"], name=op.f("fk_batches_router_version_id_router_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(
        "ix_batches_list",
        "batches",
        ["api_key_id", sa.literal_column("created_at desc"), sa.literal_column("id desc")],
        unique=False,
    )
    op.create_index(
        "ix_batches_open",
        "batches",
        ["state"],
        unique=False,
        postgresql_where="state in ('validating', 'in_progress', 'finalizing', 'cancelling')",
    )
    op.create_index("uq_batches_idempotency", "batches", ["api_key_id", "idempotency_key"], unique=True)
    op.create_table(
        "file_chunks",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_file_chunks_file_id_files"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("file_id", "number", name=op.f("pk_file_chunks")),
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Enum("batch", "key", name="budget_kind"), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("limit_nano", sa.BigInteger(), nullable=False),
        sa.Column("reserved_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("settled_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("overrun_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "case kind when 'batch' then batch_id is not null and api_key_id is null else batch_id is null and api_key_id is not null end",
            name=op.f("ck_budgets_owner"),
        ),
        sa.CheckConstraint("reserved_nano + settled_nano <= limit_nano", name=op.f("ck_budgets_ceiling")),
        sa.CheckConstraint(
            "reserved_nano >= 0 and settled_nano >= 0 and overrun_nano >= 0", name=op.f("ck_budgets_signs")
        ),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_budgets_api_key_id_api_keys")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_budgets_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_budgets_batch_id")),
    )
    op.create_index(
        "uq_budgets_key_period",
        "budgets",
        ["api_key_id", "period_start"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where="kind = 'key'",
    )
    op.create_table(
        "comparisons",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.Enum("arena", "golden", "judge", "feedback", name="comparison_source"), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("model_a", sa.Text(), nullable=False),
        sa.Column("model_b", sa.Text(), nullable=False),
        sa.Column("outcome", sa.REAL(), nullable=False),
        sa.Column("weight", sa.REAL(), server_default="1", nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("model_a <> model_b", name=op.f("ck_comparisons_two_models")),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_comparisons_digest")),
        sa.CheckConstraint("outcome between 0 and 1", name=op.f("ck_comparisons_outcome")),
        sa.CheckConstraint("weight > 0", name=op.f("ck_comparisons_weight")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_comparisons_api_key_id_api_keys")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_comparisons_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
        sa.UniqueConstraint("digest", name=op.f("uq_comparisons_digest")),
    )
    op.create_index("ix_comparisons_created_at", "comparisons", ["created_at"], unique=False, postgresql_using="brin")
    op.create_table(
        "ratings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.Enum("arena", "golden", "judge", "feedback", name="comparison_source"), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("score", sa.SmallInteger(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_ratings_digest")),
        sa.CheckConstraint("score between 1 and 5", name=op.f("ck_ratings_score")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_ratings_api_key_id_api_keys")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_ratings_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ratings")),
        sa.UniqueConstraint("digest", name=op.f("uq_ratings_digest")),
    )
    op.create_table(
        "requests",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("pinned", sa.Text(), nullable=True),
        sa.Column("max_cost_nano", sa.BigInteger(), nullable=True),
        sa.Column("input_bytes", sa.Integer(), nullable=False),
        sa.Column("output_cap", sa.Integer(), nullable=True),
        sa.Column("choices", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "scored",
                "dispatching",
                "succeeded",
                "failed",
                "cancelled",
                "expired",
                "unaffordable",
                name="request_state",
            ),
            server_default="queued",
            nullable=False,
        ),
        sa.Column("win_rate", sa.REAL(), nullable=True),
        sa.Column("quality", postgresql.ARRAY(sa.REAL()), nullable=True),
        sa.Column("expected_cost_nano", postgresql.ARRAY(sa.BigInteger()), nullable=True),
        sa.Column("ratio", sa.Double(), nullable=True),
        sa.Column("floor_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pump_id", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column(
            "reason",
            sa.Enum("plan", "share", "threshold", "pinned", "unscored", "budget", name="reason"),
            nullable=True,
        ),
        sa.Column("cost_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'dispatching') = (pump_id is not null)", name=op.f("ck_requests_claimed")),
        sa.CheckConstraint("state <> 'succeeded' or response is not null", name=op.f("ck_requests_answered")),
        sa.CheckConstraint(
            "state in ('queued', 'scored', 'dispatching') or finished_at is not null", name=op.f("ck_requests_finished")
        ),
        sa.CheckConstraint(
            "line >= 1 and input_bytes >= 0 and choices >= 1 and attempts >= 0", name=op.f("ck_requests_bounds")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_requests_batch_id_batches")),
        sa.ForeignKeyConstraint(["pump_id"], ["pumps.id"], name=op.f("fk_requests_pump_id_pumps")),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_requests")),
    )
    op.create_index(
        "ix_requests_claim",
        "requests",
        ["batch_id", "ratio", "line"],
        unique=False,
        postgresql_where="state = 'scored'",
    )
    op.create_index(
        "ix_requests_dispatching",
        "requests",
        ["pump_id", "batch_id"],
        unique=False,
        postgresql_where="state = 'dispatching'",
    )
    op.create_index("uq_requests_custom_id", "requests", ["batch_id", "custom_id"], unique=True)
    op.create_table(
        "score_ranges",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("first_line", sa.Integer(), nullable=False),
        sa.Column("last_line", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("last_line >= first_line", name=op.f("ck_score_ranges_lines")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_score_ranges_batch_id_batches")),
        sa.PrimaryKeyConstraint("batch_id", "first_line", name=op.f("pk_score_ranges")),
    )
    op.create_index(
        "ix_score_ranges_open", "score_ranges", ["batch_id"], unique=False, postgresql_where="done_at is null"
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("pump_id", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("upstream_model", sa.Text(), nullable=False),
        sa.Column("input_price", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_price", sa.BigInteger(), nullable=False),
        sa.Column("output_price", sa.BigInteger(), nullable=False),
        sa.Column("reserved_nano", sa.BigInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("started", "succeeded", "refused", "unknown", name="attempt_state"),
            server_default="started",
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("cached_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("reasoning_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("(state = 'started') = (ended_at is null)", name=op.f("ck_attempts_ended")),
        sa.CheckConstraint("state <> 'refused' or cost_nano = 0", name=op.f("ck_attempts_refused_is_free")),
        sa.CheckConstraint("state <> 'started' or cost_nano = 0", name=op.f("ck_attempts_started_is_free")),
        sa.CheckConstraint("reserved_nano >= 0 and cost_nano >= 0", name=op.f("ck_attempts_signs")),
        sa.ForeignKeyConstraint(
            ["batch_id", "line"], ["requests.batch_id", "requests.line"], name=op.f("fk_attempts_batch_id_requests")
        ),
        sa.ForeignKeyConstraint(["pump_id"], ["pumps.id"], name=op.f("fk_attempts_pump_id_pumps")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_day", "attempts", ["started_at"], unique=False, postgresql_using="brin")
    op.create_index("ix_attempts_started", "attempts", ["pump_id"], unique=False, postgresql_where="state = 'started'")
    op.create_index("uq_attempts_number", "attempts", ["batch_id", "line", "number"], unique=True)
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("attempt_id", sa.BigInteger(), nullable=False),
        sa.Column("budget_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Enum("reserve", "settle", "release", name="entry_kind"), nullable=False),
        sa.Column(
            "basis", sa.Enum("bound", "usage", "estimated", "unknown", "unbilled", name="entry_basis"), nullable=False
        ),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("overrun_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("overrun_nano = 0 or kind = 'settle'", name=op.f("ck_ledger_entries_overrun")),
        sa.CheckConstraint("amount_nano >= 0 and overrun_nano >= 0", name=op.f("ck_ledger_entries_signs")),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.id"], name=op.f("fk_ledger_entries_attempt_id_attempts")),
        sa.ForeignKeyConstraint(["budget_id"], ["budgets.id"], name=op.f("fk_ledger_entries_budget_id_budgets")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
    )
    op.create_index("ix_ledger_entries_budget", "ledger_entries", ["budget_id"], unique=False)
    op.create_index(
        "uq_ledger_entries_close",
        "ledger_entries",
        ["attempt_id", "budget_id"],
        unique=True,
        postgresql_where=sa.text("kind <> 'reserve'"),
    )
    op.create_index(
        "uq_ledger_entries_reserve",
        "ledger_entries",
        ["attempt_id", "budget_id"],
        unique=True,
        postgresql_where=sa.text("kind = 'reserve'"),
    )
    # files and batches refer to each other
    op.create_foreign_key("fk_files_batch_id_batches", "files", "batches", ["batch_id"], ["id"])


def downgrade() -> None:
    op.drop_constraint("fk_files_batch_id_batches", "files", type_="foreignkey")
    op.drop_index(
        "uq_ledger_entries_reserve", table_name="ledger_entries", postgresql_where=sa.text("kind = 'reserve'")
    )
    op.drop_index("uq_ledger_entries_close", table_name="ledger_entries", postgresql_where=sa.text("kind <> 'reserve'"))
    op.drop_index("ix_ledger_entries_budget", table_name="ledger_entries")
    op.drop_table("ledger_entries")
    op.drop_index("uq_attempts_number", table_name="attempts")
    op.drop_index("ix_attempts_started", table_name="attempts", postgresql_where="state = 'started'")
    op.drop_index("ix_attempts_day", table_name="attempts", postgresql_using="brin")
    op.drop_table("attempts")
    op.drop_index("ix_score_ranges_open", table_name="score_ranges", postgresql_where="done_at is null")
    op.drop_table("score_ranges")
    op.drop_index("uq_requests_custom_id", table_name="requests")
    op.drop_index("ix_requests_dispatching", table_name="requests", postgresql_where="state = 'dispatching'")
    op.drop_index("ix_requests_claim", table_name="requests", postgresql_where="state = 'scored'")
    op.drop_table("requests")
    op.drop_table("ratings")
    op.drop_index("ix_comparisons_created_at", table_name="comparisons", postgresql_using="brin")
    op.drop_table("comparisons")
    op.drop_index(
        "uq_budgets_key_period",
        table_name="budgets",
        postgresql_nulls_not_distinct=True,
        postgresql_where="kind = 'key'",
    )
    op.drop_table("budgets")
    op.drop_table("file_chunks")
    op.drop_index("uq_batches_idempotency", table_name="batches")
    op.drop_index(
        "ix_batches_open",
        table_name="batches",
        postgresql_where="state in ('validating', 'in_progress', 'finalizing', 'cancelling')",
    )
    op.drop_index("ix_batches_list", table_name="batches")
    op.drop_table("batches")
    op.drop_index("ix_files_list", table_name="files", postgresql_where="deleted_at is null")
    op.drop_table("files")
    op.drop_table("evaluations")
    op.drop_table("decisions")
    op.drop_index(
        "uq_router_versions_active", table_name="router_versions", postgresql_where=sa.text("state = 'active'")
    )
    op.drop_table("router_versions")
    op.drop_table("pumps")
    op.drop_table("api_keys")
    for enum in (
        "attempt_state",
        "batch_state",
        "budget_kind",
        "comparison_source",
        "entry_basis",
        "entry_kind",
        "file_purpose",
        "reason",
        "request_state",
        "version_state",
    ):
        op.execute(f"drop type {enum}")
