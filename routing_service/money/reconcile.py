"""Reconcile: an upstream's account, by model and day, against what was recorded and settled here."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.errors import InvalidRequestError
from routing_service.money.pricing import MILLION

COLUMNS = ("model", "day", "input_tokens", "output_tokens")
MOST_TOKENS = 10**15


@dataclass(frozen=True, slots=True)
class Billed:
    """A line of the upstream's account: a model by its name there, a UTC day, tokens."""

    model: str
    day: date
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One model on one UTC day; money in nano-dollars. `billed` is the account's tokens at the day's highest prices,
    cached input at the full one; `settled` includes `unknown` and `estimated`, which were charged in full."""

    model: str
    day: date
    billed_input_tokens: int
    billed_output_tokens: int
    recorded_input_tokens: int
    recorded_output_tokens: int
    unknown_attempts: int
    estimated_attempts: int
    billed: int
    settled: int
    unknown: int
    estimated: int

    @property
    def difference(self) -> int:
        """What is settled above the account; below 0 the account holds something that was never settled."""
        return self.settled - self.billed

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"day": self.day.isoformat(), "difference": self.difference}


def read_billed(lines: Iterable[str]) -> list[Billed]:
    """Lines of CSV with a header that names COLUMNS. InvalidRequestError names the first line that is wrong."""
    reader = csv.DictReader(lines)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InvalidRequestError(f"the account lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    return [_billed(row, reader.line_num) for row in reader]


def _billed(row: dict[str, str | None], number: int) -> Billed:
    try:
        day = date.fromisoformat((row["day"] or "").strip())
        tokens = [int((row[name] or "").strip()) for name in COLUMNS[2:]]
    except ValueError as error:
        raise InvalidRequestError(f"line {number} of the account: {error}") from None
    model = (row["model"] or "").strip()
    if not model or not all(0 <= count <= MOST_TOKENS for count in tokens):
        raise InvalidRequestError(f"line {number} of the account: a model and tokens from 0 on are expected")
    return Billed(model, day, *tokens)


_RECORDED = text(
    "select upstream_model, (started_at at time zone 'UTC')::date, coalesce(sum(input_tokens), 0),"
    " coalesce(sum(output_tokens), 0), count(*) filter (where state = 'unknown'),"
    " count(*) filter (where state = 'succeeded' and output_tokens is null), sum(cost_nano),"
    " coalesce(sum(cost_nano) filter (where state = 'unknown'), 0),"
    " coalesce(sum(cost_nano) filter (where state = 'succeeded' and output_tokens is null), 0),"
    " max(input_price), max(output_price)"
    " from attempts where state <> 'started' and (started_at at time zone 'UTC')::date between :first and :last"
    " group by 1, 2"
)


def reconcile(session: Session, account: Sequence[Billed]) -> list[Reconciled]:
    """A row for every model and day of the account, and for every model with attempts on one of its days.

    Tokens of a model that has no attempts that day have no price here: its `billed` is 0 and its tokens tell.
    """
    if not account:
        return []
    billed: dict[tuple[str, date], tuple[int, int]] = {}
    for line in account:
        before = billed.get((line.model, line.day), (0, 0))
        billed[line.model, line.day] = (before[0] + line.input_tokens, before[1] + line.output_tokens)
    days = [line.day for line in account]
    recorded = {
        (row[0], row[1]): [int(value) for value in row[2:]]
        for row in session.execute(_RECORDED, {"first": min(days), "last": max(days)})
        if row[1] in set(days)
    }
    keys = sorted(billed.keys() | recorded.keys(), key=lambda key: (key[1], key[0]))
    return [_row(key, billed.get(key, (0, 0)), recorded.get(key, [0] * 9)) for key in keys]


def _row(key: tuple[str, date], tokens: tuple[int, int], recorded: list[int]) -> Reconciled:
    given, answered, unknown_attempts, estimated_attempts, settled, unknown, estimated, *prices = recorded
    billed = -(-(tokens[0] * prices[0] + tokens[1] * prices[1]) // MILLION)
    counts = (unknown_attempts, estimated_attempts)
    return Reconciled(*key, *tokens, given, answered, *counts, billed, settled, unknown, estimated)
