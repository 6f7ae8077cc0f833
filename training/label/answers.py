"""A batch's requests with their answers, as texts, and files that say something of each by its custom_id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from routing_service.exploration.pairs import answer_text
from routing_service.models import Batch, Request, RequestState
from training.data.tables import BadRow, DataError, opened

ROWS = 500  # in memory at a time; an answer may have megabytes
IDS = ("custom_id", "id")


@dataclass(frozen=True, slots=True)
class Answered:
    """A request: `model` and `text` (of the first choice) are None where it has no answer; "" is an answer without
    text."""

    line: int
    custom_id: str
    body: str
    model: str | None
    text: str | None


def read_requests(session: Session, batch_id: str) -> Iterator[Answered]:
    """All requests of the batch, in the order of their lines, through a cursor of the server."""
    first = aliased(Request)  # of a duplicate, the line that was asked in its stead
    response = func.coalesce(Request.response, first.response)
    wanted = (
        select(Request.line, Request.custom_id, Request.body, Request.state, Request.model, response)
        .outerjoin(first, (first.batch_id == Request.batch_id) & (first.line == Request.twin_of))
        .where(Request.batch_id == batch_id)
        .order_by(Request.line)
    )
    rows = session.execute(wanted, execution_options={"yield_per": ROWS})
    for line, custom_id, body, state, model, answer in rows:
        if state is RequestState.SUCCEEDED:
            yield Answered(line, custom_id, body, model, answer_text(answer) or "")
        else:
            yield Answered(line, custom_id, body, None, None)


def existing_batch(session: Session, batch_id: str) -> Batch:
    """DataError where there is none of that id."""
    batch = session.get(Batch, batch_id)
    if batch is None:
        raise DataError(f"there is no batch {batch_id!r}")
    return batch


def read_by_id(path: Path, columns: tuple[str, ...]) -> dict[str, str]:
    """What a CSV or JSON lines file says of each custom_id (column `custom_id`, else `id`) in the first of `columns`
    that it has. What is no text is taken as its JSON. DataError names the first row that cannot be used."""
    with opened(path) as table:
        key = next((name for name in IDS if name in table.columns), None)
        value = next((name for name in columns if name in table.columns), None)
        if key is None or value is None:
            wanted = f"{' or '.join(IDS)}, and {' or '.join(columns)}"
            raise DataError(f"{path}: its columns are {', '.join(sorted(table.columns))}; wanted are {wanted}")
        values: dict[str, str] = {}
        for row in table.rows:
            if isinstance(row, BadRow):
                raise DataError(str(row))
            where = f"{table.name}, {table.unit} {row.number}"
            name, text = _text(row.cells.get(key)), _text(row.cells.get(value))
            if not name or not text:
                raise DataError(f"{where}: `{key if not name else value}` is empty")
            if not _is_utf8(text):
                raise DataError(f"{where}: `{value}` holds bytes that are no UTF-8, or half of a surrogate pair")
            if values.setdefault(name, text) != text:
                raise DataError(f"{where}: {name[:80]!r} is there already, and says something else")
    return values


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
