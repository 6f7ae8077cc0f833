"""API keys, and the files that belong to them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, text
from sqlalchemy.orm import Mapped, mapped_column

from routing_service.models.base import Base, FilePurpose, Now, pg_enum


class ApiKey(Base):
    """A client's key. Only its SHA-256 is kept: keys are random, so a slow hash would buy nothing."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    hint: Mapped[str]  # the last four characters
    created_at: Mapped[Now]
    revoked_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("octet_length(digest) = 32", name="digest"),)


class File(Base):
    """An uploaded file, or a batch's output or error file, which has no chunks: it is served from the requests."""

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    purpose: Mapped[FilePurpose] = mapped_column(pg_enum(FilePurpose, "file_purpose"))
    filename: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[Now]
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id", use_alter=True))
    errors: Mapped[bool] = mapped_column(server_default=text("false"))  # of an output file: it is the error file
    __table_args__ = (
        CheckConstraint("bytes >= 0", name="bytes"),
        CheckConstraint("(purpose = 'batch_output') = (batch_id is not null)", name="output_has_batch"),
        Index(
            "ix_files_list",
            "api_key_id",
            text("created_at desc"),
            text("id desc"),
            postgresql_where="deleted_at is null",
        ),
        Index("ix_files_expiry", "expires_at", postgresql_where="deleted_at is null and expires_at is not null"),
    )


class FileChunk(Base):
    __tablename__ = "file_chunks"
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
