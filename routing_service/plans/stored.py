"""The scored requests of a batch as arrays, and the plan that its mode makes of them.

`read_scored` reads a million requests in a second. `cut` ranks them and cuts where the batch's mode and budget say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Unnest
from routing_service.models import Batch
from routing_service.money.pricing import NO_CAP, PriceBook
from routing_service.planning import NEVER, Damping, Floats, Ints, Plan, Ranking, steps
from routing_service.scoring.ranking import BY_COST, Bools, Columns, allowed
from routing_service.settings import Settings

# Rows of fixed width come out of a binary COPY as a table that numpy reads in place: a million in a second.
_COPY = """
copy (select line, ratio, floor_nano, coalesce(fallback, pinned) is not null,
             coalesce(array_position(%s::text[], coalesce(fallback, pinned, %s)), 0),
             input_bytes, coalesce(output_cap, {no_cap}), choices, coalesce(max_cost_nano, {no_cap}),
             answers{candidates}
      from requests where batch_id = %s and state = 'scored') to stdout (format binary)
"""
_FIELDS = {
    "line": ">i4",
    "ratio": ">f8",
    "floor": ">i8",
    "pinned": "?",
    "model": ">i4",  # whichever the floor counts: number of its key among the configured ones, from 1
    "input_bytes": ">i4",
    "output_cap": ">i8",
    "choices": ">i2",
    "max_cost": ">i8",
    "answers": ">i4",
}
UNKNOWN_STD = 0.5  # no number in [0, 1] spreads more
_HEADER_BYTES, _TRAILER_BYTES = 19, 2


@dataclass(frozen=True, slots=True)
class Scored:
    """n requests and m candidates, the cheapest first. What is pinned costs its model's price whichever candidate is
    asked, and gains nothing: the client decided, not the plan."""

    line: Ints
    ratio: Floats
    floor: Ints
    pinned: Bools
    model: Ints
    columns: Columns
    cost: Ints  # (n, m) expected
    answers: Ints  # lines that its answer serves
    quality: npt.NDArray[np.float64]  # (n, m), times the lines that its answer serves
    std: npt.NDArray[np.float32] | None = None  # (n, m) of one line's quality, where it was asked for

    def __len__(self) -> int:
        return len(self.line)

    def steps(
        self, candidates: list[str], mode: str, damping: Damping | None, settings: Settings, prices: PriceBook
    ) -> Floats:
        """What the plan cuts, shape (n, m): of a pair the stored ratios, of more models their hulls again."""
        m = len(candidates)
        if m > 2 and mode in BY_COST:
            may = allowed(self.columns, candidates, settings, prices)
            return steps(self.cost, np.where(may, self.quality, NEVER), damping)
        step = np.full((len(self), m), NEVER)
        step[:, 0] = np.inf
        if m > 1:
            step[:, -1] = self.ratio
        return step

    def largest_worst_case(self, settings: Settings, prices: PriceBook) -> int:
        """The most that one request can cost at the model that the floor counts for it."""
        largest = 0
        for number, (key, model) in enumerate(settings.models.items(), start=1):
            mine = [size[self.model == number] for size in self.columns.sizes]
            largest = max(largest, int(prices.worst_cases(key, model, *mine).max(initial=0)))
        return largest


def read_scored(session: Session, batch: Batch, settings: Settings, *, std: bool = False) -> Scored:
    """All requests of the batch that wait to be dispatched. `std`: with their standard deviations, of a preview; where
    no router gave one it is UNKNOWN_STD."""
    m = len(batch.candidates)
    table = _table(session, batch, list(settings.models), m, std)

    def column(name: str, kind: Any = np.int64) -> Any:
        return table[name]["value"].astype(kind)

    pinned, floor = column("pinned", np.bool_), column("floor")
    cost = np.column_stack([column(f"cost{j}") for j in range(m)])
    answers = column("answers")
    quality = np.column_stack([column(f"quality{j}", np.float64) * answers for j in range(m)])
    cost[pinned] = floor[pinned, None]
    quality[pinned] = 0.5
    columns = Columns(column("input_bytes"), column("output_cap"), column("choices"), column("max_cost"), [])
    ratio = column("ratio", np.float64)
    spread = None
    if std:
        spread = np.column_stack([column(f"std{j}", np.float32) for j in range(m)])
        spread[pinned] = 0
    return Scored(column("line"), ratio, floor, pinned, column("model"), columns, cost, answers, quality, spread)


def _table(session: Session, batch: Batch, models: list[str], m: int, std: bool) -> npt.NDArray[Any]:
    names = _FIELDS | {f"cost{j}": ">i8" for j in range(m)} | {f"quality{j}": ">f4" for j in range(m)}
    more = [f", coalesce(expected_cost_nano[{j + 1}], floor_nano)" for j in range(m)]
    more += [f", coalesce(quality[{j + 1}], 0.5)::real" for j in range(m)]
    if std:
        names |= {f"std{j}": ">f4" for j in range(m)}
        more += [f", coalesce(std[{j + 1}], {UNKNOWN_STD if j else 0})::real" for j in range(m)]
    row: list[Any] = [("fields", ">i2")]
    row += [(name, np.dtype([("width", ">i4"), ("value", kind)])) for name, kind in names.items()]
    query = _COPY.format(no_cap=NO_CAP, candidates="".join(more))
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    data = bytearray()
    with connection.cursor() as cursor, cursor.copy(query, (models, batch.candidates[0], batch.id)) as copy:
        for block in copy:
            data += block
    rows = (len(data) - _HEADER_BYTES - _TRAILER_BYTES) // np.dtype(row).itemsize
    return np.frombuffer(data, dtype=row, count=rows, offset=_HEADER_BYTES)


_RANKED = Unnest("ranked", {"line": "int", "ratio": "double precision"})
_WRITE_RATIOS = text(f"""
update requests set ratio = ranked.ratio from {_RANKED}
where requests.batch_id = :id and requests.line = ranked.line and requests.state = 'scored'
""")  # noqa: S608


def write_ratios(session: Session, batch_id: str, line: Ints, ratio: Floats) -> None:
    """Rank the batch's requests anew. They are read by these ratios when they are claimed."""
    session.execute(_WRITE_RATIOS, {"id": batch_id, **_RANKED.parameters(line=line.tolist(), ratio=ratio.tolist())})


def cut(table: Scored, step: Floats, available: int, batch: Batch, settings: Settings, prices: PriceBook) -> Plan:
    """The plan of a batch's mode. `available`: what of its budget may still be spent, in nano-dollars."""
    ranking = Ranking.of(table.cost, table.quality, table.line, step)
    return cut_within(ranking, available - table.largest_worst_case(settings, prices), batch)


def cut_within(ranking: Ranking, spendable: int, batch: Batch) -> Plan:
    """The plan of a batch's mode. `spendable`: what answers may be expected to cost in all, in nano-dollars."""
    mode = batch.options.get("mode", "plan")
    if mode == "share":
        return ranking.share(float(batch.options["strong_share"]))
    if mode == "threshold":
        return ranking.threshold(float(batch.options["threshold"]))
    within = ranking.within(spendable)
    if mode == "target_quality":
        wanted = ranking.reaching(float(batch.options["target_quality"]))
        return min(within, wanted, key=lambda plan: plan.expected_cost)
    return within
