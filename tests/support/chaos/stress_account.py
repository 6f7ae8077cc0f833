"""What a stress left behind, held against what must hold: the upstream's bill call by call, the ledger, every line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import text

from routing_service.db import Database
from routing_service.money import ledger
from routing_service.money.pricing import Price, cost_nano
from routing_service.openai_format.output import render
from tests.support.chaos.stress import Billed

CALL = "routebatch-attempt-"

_ATTEMPTS = """
select id, batch_id, upstream_model as model, state::text, input_price, cached_input_price, output_price, reserved_nano,
       cost_nano, output_tokens, error_code
from attempts order by id
"""
_BATCHES = """
select batch.id, batch.state::text, batch.total, batch.succeeded, batch.failed, budget.limit_nano,
    budget.reserved_nano, budget.settled_nano,
       budget.overrun_nano from batches batch join budgets budget on budget.batch_id = batch.id
       order by batch.created_at, batch.id
"""
_KEY = "select limit_nano, reserved_nano, settled_nano, overrun_nano from budgets where kind = 'key'"


@dataclass(frozen=True)
class BatchAccount:
    """Of one batch; money in nano-dollars. What is settled above the bill: by attempts without a known usage."""

    state: str
    lines: int
    answered: int
    limit: int
    settled: int
    billed: int
    above_unknown: int
    above_estimated: int


@dataclass
class Account:
    """The whole of it. `wrong` names what does not hold; it should be empty."""

    batches: list[BatchAccount] = field(default_factory=list)
    key: dict[str, int] = field(default_factory=dict)  # of the key's budget: limit and settled, in nano-dollars
    attempts: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)  # of attempts without an answer, and of lines without one
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Sums:
    billed: int = 0
    cost: int = 0
    above: Counter[str] = field(default_factory=Counter)


def account(database: Database, batch_ids: Sequence[str], billed: Sequence[Billed]) -> Account:
    """Add up and compare. `batch_ids`: all there are, in the order they were made."""
    account = Account()
    bills = _bills(billed, account)
    sums = {batch_id: _Sums() for batch_id in batch_ids}
    with database.transaction() as session:
        for attempt in session.execute(text(_ATTEMPTS)):
            _hold(attempt, bills.pop(attempt.id, None), sums[attempt.batch_id], account)
        for row in session.execute(text(_BATCHES)):
            account.batches.append(_batch(row, sums[row.id], account))
        account.wrong += _key(session.execute(text(_KEY)).one(), account)
        account.wrong += [f"ledger: {difference}" for difference in ledger.verify(session)]
    account.wrong += [f"billed, but no attempt: {bill}" for bill in bills.values()]
    for batch_id, made in zip(batch_ids, account.batches, strict=True):
        account.wrong += _lines(database, batch_id, made.lines, made.answered, account.causes)
    return account


def _bills(bills: Sequence[Billed], account: Account) -> dict[int, Billed]:
    """By attempt. A call is billed once at most: none is sent twice under the same id."""
    by_attempt: dict[int, Billed] = {}
    for bill in bills:
        number = bill.call_id.removeprefix(CALL)
        if not number.isdecimal() or int(number) in by_attempt:
            account.wrong.append(f"billed twice, or not ours: {bill}")
        else:
            by_attempt[int(number)] = bill
    return by_attempt


def _hold(attempt: Any, bill: Billed | None, sums: _Sums, account: Account) -> None:
    """One attempt against its line of the bill."""
    price = Price(attempt.input_price, attempt.cached_input_price, attempt.output_price)
    billed = cost_nano(price, bill.input_tokens, bill.output_tokens) if bill else 0
    kind: str = attempt.state
    if kind == "succeeded":
        kind = "estimated" if attempt.output_tokens is None else "usage"
    right = {
        "usage": attempt.cost_nano == billed > 0,
        "estimated": attempt.cost_nano == attempt.reserved_nano >= billed > 0,
        "unknown": attempt.cost_nano == attempt.reserved_nano >= billed,
        "refused": attempt.cost_nano == 0 == billed,
    }
    if not right.get(kind, False) or (bill and bill.model != attempt.model):
        account.wrong.append(f"attempt {attempt.id}: {kind}, {attempt.cost_nano} settled, {billed} billed: {bill}")
    account.attempts[kind] += 1
    if attempt.error_code:
        account.causes[f"{kind}: {attempt.error_code}"] += 1
    sums.billed += billed
    sums.cost += attempt.cost_nano
    sums.above[kind] += attempt.cost_nano - billed


def _batch(row: Any, sums: _Sums, account: Account) -> BatchAccount:
    made = BatchAccount(
        row.state,
        row.total,
        row.succeeded,
        row.limit_nano,
        row.settled_nano,
        sums.billed,
        sums.above["unknown"],
        sums.above["estimated"],
    )
    holds = {
        "completed": row.state == "completed" and row.succeeded + row.failed == row.total,
        "nothing reserved": row.reserved_nano == 0,
        "no overrun": row.overrun_nano == 0,
        "billed <= settled <= limit": made.billed <= made.settled <= made.limit,
        "settled by attempts": made.settled == sums.cost,
        "the difference explained": made.settled - made.billed == made.above_unknown + made.above_estimated,
    }
    account.wrong += [f"{row.id}: not so: {what}: {row}, {made}" for what, so in holds.items() if not so]
    return made


def _key(row: Any, account: Account) -> Iterator[str]:
    """What is wrong with the budget that the batches share. No overrun: so it is settled by what they are."""
    account.key = {"limit": row.limit_nano, "settled": row.settled_nano}
    settled = sum(batch.settled for batch in account.batches)
    if (row.reserved_nano, row.settled_nano, row.overrun_nano) != (0, settled, 0) or settled > row.limit_nano:
        yield f"the key's budget: {row}, while its batches settled {settled}"


def _lines(database: Database, batch_id: str, total: int, answered: int, causes: Counter[str]) -> Iterator[str]:
    """What is wrong with the files of a batch whose lines are called line-0, line-1, ..."""
    output, errors = (list(_read(database, batch_id, errors=errors)) for errors in (False, True))
    ids = Counter(line["custom_id"] for line in output + errors)
    if ids != Counter(f"line-{n}" for n in range(total)):
        yield f"{batch_id}: not every line ended exactly once: {ids.most_common(3)}, {len(ids)} of {total}"
    if len(output) != answered:
        yield f"{batch_id}: {len(output)} answers in the file, {answered} counted"
    for line in output:
        response = line["response"]
        if response["status_code"] != 200 or not response["body"]["choices"][0]["message"]["content"]:
            yield f"{batch_id}: no answer: {line}"
    for line in errors:
        error = line["error"] or line["response"]["body"]["error"]
        causes[f"line: {error['code']}"] += 1


def _read(database: Database, batch_id: str, *, errors: bool) -> Iterator[dict[str, Any]]:
    for piece in render(database, batch_id, errors=errors):
        for line in piece.splitlines():
            yield orjson.loads(line)
