"""Processes that contend for budgets: each reserves chunks on its batches' budgets and on one that all of them share.

What they do to the ledger is what claiming and settling do: a chunk locks its batch, then its budgets in id order, and
reserves what fits; results of several batches are closed together. Used by tests and benchmarks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database, Unnest
from routing_service.models import EntryBasis, Period
from routing_service.money import ledger
from routing_service.money.budgets import set_limit
from tests.support.planned import Planned, make_planned_batch

CLAIM_CHUNK = 64
HELD = 2 * CLAIM_CHUNK  # attempts in flight at a process, at the least, before it settles
WORST_NANO = (600, 1000)  # the range of what is reserved for an attempt
WAIT_S = 240


@dataclass(frozen=True)
class Account:
    """A batch and its own budget."""

    batch_id: str
    budget_id: int


@dataclass(frozen=True)
class Contest:
    """Batches of so many lines each, whose budgets are taken together with the shared one. `url`: of the database."""

    url: str
    accounts: tuple[Account, ...]
    shared_id: int
    lines: int
    seed: int


@dataclass(frozen=True)
class Part:
    """What one process did. `refused`: lines that no money was left for. Times are of the machine's steady clock."""

    reserved: int
    refused: int
    started_s: float
    ended_s: float


@dataclass(frozen=True)
class _Held:
    """A reserved attempt."""

    attempt_id: int
    batch_id: str
    line: int
    worst_nano: int


def make_contest(
    database: Database, url: str, *, batches: int, lines: int, batch_limit: int, shared_limit: int, seed: int
) -> Contest:
    """Batches of one key in an empty database, each with its budget, and the key's own. Limits in nano-dollars."""
    with database.transaction() as session:
        ids = [make_planned_batch(session, [Planned()], budget_nano=batch_limit) for _ in range(batches)]
        session.flush()
        session.execute(text("update batches set api_key_id = (select min(api_key_id) from batches)"))
        session.execute(
            text(
                "insert into requests (batch_id, line, custom_id, body, input_bytes, state, floor_nano)"
                " select request.batch_id, number, 'c-' || number, request.body, request.input_bytes, request.state,"
                " request.floor_nano"
                " from requests request, generate_series(2, :n) number"
            ),
            {"n": lines},
        )
        key_id = session.scalar(text("select min(api_key_id) from batches"))
        assert key_id is not None
        set_limit(session, key_id, Period.ALL, shared_limit)
        shared = session.scalar(text("select id from budgets where kind = 'key'"))
        assert shared is not None
        rows = session.execute(text("select batch_id, id from budgets where batch_id = any(:ids)"), {"ids": ids})
        return Contest(url, tuple(Account(*row) for row in rows), shared, lines, seed)


def contend(contest: Contest, processes: int) -> list[Part]:
    """Reserve and settle every line of the batches by so many processes. The first error of one of them is raised."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    barrier = context.Barrier(processes)
    # A pool's workers take one task each, since none returns before all of them have begun.
    with context.Pool(processes, _meet_at, (barrier,)) as pool:
        parts: list[Part] = pool.starmap(_take_part, [(contest, n, processes) for n in range(processes)], chunksize=1)
        return parts


_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _take_part(contest: Contest, number: int, processes: int) -> Part:
    database = Database(contest.url, pool_size=1, max_overflow=0)
    with database.transaction() as session:
        session.execute(text("select 1"))  # connected before the clock runs
    share = range(1 + number * contest.lines // processes, 1 + (number + 1) * contest.lines // processes)
    starts = range(0, len(share), CLAIM_CHUNK)
    chunks = [(account, share[at : at + CLAIM_CHUNK]) for account in contest.accounts for at in starts]
    process = _Process(database, contest, random.Random(f"{contest.seed} {number}"))
    process.rng.shuffle(chunks)
    _barrier.wait(WAIT_S)
    started = time.monotonic()
    for account, lines in chunks:
        process.take(account, lines)
    process.settle()
    ended = time.monotonic()
    database.dispose()
    return Part(process.reserved, process.refused, started, ended)


_ATTEMPTS = Unnest("attempt", {"line": "int", "reserved_nano": "bigint"})
_ATTEMPT = text(
    "insert into attempts (batch_id, line, number, model, upstream_model, input_price, cached_input_price,"
    f" output_price, reserved_nano) select :batch, line, 1, 'weak', 'w', 1, 1, 1, reserved_nano from {_ATTEMPTS}"
    " returning id, batch_id, line, reserved_nano"
)


class _Process:
    def __init__(self, database: Database, contest: Contest, rng: random.Random) -> None:
        self.database, self.contest, self.rng = database, contest, rng
        self.reserved = self.refused = 0
        self.held: list[_Held] = []

    def take(self, account: Account, lines: Sequence[int]) -> None:
        """Reserve each of the lines, or know that no money is left for those that remain."""
        while lines:
            with self.database.transaction() as session:
                taken, in_flight = self._reserve(session, account, lines)
            self.reserved += len(taken)
            self.held += taken
            lines = lines[len(taken) :]
            if not taken and not in_flight:
                self.refused += len(lines)
                return
            if len(self.held) >= HELD or not taken:
                self.settle()

    def _reserve(self, session: Session, account: Account, lines: Sequence[int]) -> tuple[list[_Held], bool]:
        """What of the lines fits, from the first on, and whether money of the budgets is in flight."""
        session.execute(text("select id from batches where id = :id for no key update"), {"id": account.batch_id})
        balances = ledger.lock_budgets(session, [self.contest.shared_id, account.budget_id])
        headroom = min(balance.headroom for balance in balances)
        worst = [self.rng.randint(*WORST_NANO) for _ in lines]
        fitting = sum(total <= headroom for total in accumulate(worst))
        rows = session.execute(
            _ATTEMPT,
            {"batch": account.batch_id} | _ATTEMPTS.parameters(line=lines[:fitting], reserved_nano=worst[:fitting]),
        )
        taken = [_Held(*row) for row in rows]
        budgets = [balance.budget_id for balance in balances]
        ledger.reserve(session, budgets, [(held.attempt_id, held.worst_nano) for held in taken])
        return taken, any(balance.reserved for balance in balances)

    def settle(self) -> None:
        """Close whatever is in flight here, of all batches together."""
        if not self.held:
            return
        with self.database.transaction() as session:
            session.execute(
                text("select id from batches where id = any(:ids) order by id for no key update"),
                {"ids": list({held.batch_id for held in self.held})},
            )
            costs = ledger.close(session, [self._closing(held) for held in self.held])
            assert costs.keys() == {held.attempt_id for held in self.held}
            for statement in _CLOSE:
                session.execute(statement, _closed(self.held, costs))
        self.held = []

    def _closing(self, held: _Held) -> ledger.Closing:
        """Mostly a small bill; now and then none, an unknown one, or one above the reservation."""
        point = self.rng.random()
        if point < 0.04:
            return ledger.Closing(held.attempt_id, EntryBasis.UNBILLED, None)
        if point < 0.08:
            return ledger.Closing(held.attempt_id, EntryBasis.UNKNOWN, None)
        cost = held.worst_nano * 3 // 2 if point < 0.09 else self.rng.randint(0, held.worst_nano // 4)
        return ledger.Closing(held.attempt_id, EntryBasis.USAGE, cost)


_CLOSED = Unnest("closed", {"attempt_id": "bigint", "batch_id": "text", "line": "int", "cost_nano": "bigint"})
_CLOSE = (
    text(
        "update attempts set state = 'succeeded', ended_at = now(), cost_nano = closed.cost_nano"
        f" from {_CLOSED} where attempts.id = closed.attempt_id"
    ),
    text(
        "update requests set state = 'succeeded', finished_at = now(), response = '{}', model = 'weak',"
        f" cost_nano = closed.cost_nano from {_CLOSED}"
        " where requests.batch_id = closed.batch_id and requests.line = closed.line"
    ),
)


def _closed(held: Sequence[_Held], costs: dict[int, int]) -> dict[str, Any]:
    return _CLOSED.parameters(
        attempt_id=[one.attempt_id for one in held],
        batch_id=[one.batch_id for one in held],
        line=[one.line for one in held],
        cost_nano=[costs[one.attempt_id] for one in held],
    )
