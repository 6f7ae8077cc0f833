"""Comparisons from the database as JSON lines, which an import takes again."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from sqlalchemy import func, select
from sqlalchemy.engine import Row
from sqlalchemy.orm import Session

from routing_service.models.learning import Comparison
from training.methods import Progress, silent

ROWS = 2000  # in memory at a time
EXPORT_COLUMNS = (
    "prompt",
    "model_a",
    "model_b",
    "outcome",
    "weight",
    "source",
    "created_at",
    "batch_id",
    "line",
    "api_key_id",
    "digest",
)


def export_comparisons(session: Session, stream: BinaryIO, progress: Progress = silent) -> int:
    """Write all comparisons in the order of their ids, through a cursor of the server; returns how many."""
    total = session.scalar(select(func.count()).select_from(Comparison)) or 0
    wanted = select(*(getattr(Comparison, name) for name in EXPORT_COLUMNS)).order_by(Comparison.id)
    found = session.execute(wanted, execution_options={"yield_per": ROWS})
    written = 0
    with progress("writing comparisons", total) as advance:
        for part in found.partitions():
            stream.write(b"".join(_line(row) for row in part))
            written += len(part)
            advance(len(part))
    return written


def _line(row: Row[Any]) -> bytes:
    value = {name: cell for name, cell in zip(EXPORT_COLUMNS, row, strict=True) if cell is not None}
    value["source"] = row.source.value
    value["created_at"] = row.created_at.isoformat()
    value["digest"] = row.digest.hex()
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
