"""Dispatch under fire: pumps in processes of their own, killed at random, against an upstream that errs.

Several batches of one key, with budgets from too little to plenty, are planned and dispatched until all of them have
ended. The key's limit is less than the batches may spend together; where it pauses them it is raised a little. Whoever
is killed is replaced. `stress_account` says afterwards whether the money was kept. Used by tests and benchmarks.
"""

from __future__ import annotations

import csv
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch.sweep import sweep
from routing_service.models import TERMINAL, Batch, Period
from routing_service.money.budgets import set_limit, top_up
from routing_service.money.pricing import NANO, expected_nano, price_book
from routing_service.openai_format.body import input_bytes
from routing_service.settings import Settings
from sandbox.problems import generate
from tests.support.chaos.stress_dispatch import LOOK_S, AtOnce, Dispatchers, dispatchers
from tests.support.factories import STRONG, WEAK, chat_line, make_settings, planned_batch
from tests.support.upstreams.sandbox_server import sandbox_process

FAULTS = {
    "p429": 0.01,
    "p500": 0.01,
    "reset": 0.005,
    "reset-after": 0.005,
    "garbage": 0.01,
    "no-usage": 0.005,
    "hang": 0.005,
}
"""Of a hundred calls five go wrong."""

SHARES = (0.0, 0.1, 0.3, 0.6)
"""Budgets of the batches: so much of the way from all-weak to all-strong, as expected beforehand."""

KEY_SHARE, TOP_UP_SHARE = 0.5, 0.1
"""The key's limit at first, and what is added when it binds, in parts of the batches' budgets together."""


@dataclass(frozen=True)
class Stress:
    """What is to be done. `kills`: how many dispatch processes are killed, each at another point of the progress."""

    requests: int
    kills: int
    seed: int
    processes: int = 8
    latency_ms: float = 30
    seconds: float = 120  # after which it is given up
    timeout_s: float = 5  # of a call
    lease_s: float = 4  # after which the lines of who was killed are free again


@dataclass(frozen=True)
class Billed:
    """A line of the upstream's bill."""

    call_id: str
    model: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Fought:
    """What was left on the field: the batches, the upstream's bill, who was killed when (seconds, process id), and how
    often the key's limit was raised."""

    batch_ids: list[str]
    bills: list[Billed]
    kills: list[tuple[float, int]]
    top_ups: int
    seconds: float


def fight(database: Database, url: str, directory: Path, stress: Stress) -> Fought:
    """Run until every batch has ended. TimeoutError if they do not; nothing is left running in any case."""
    bill = directory / "billed.csv"
    rates = [word for name, rate in FAULTS.items() for word in (f"--{name}", str(rate))]
    options = ["--latency-ms", str(stress.latency_ms), "--seed", str(stress.seed), "--billed", str(bill), *rates]
    with sandbox_process(*options) as base_url:
        sections = _sections(base_url, stress)
        settings = make_settings(**sections)
        batch_ids, budgets = _batches(database, settings, stress)
        key = _Key(database, batch_ids, sum(budgets))
        started = time.monotonic()
        with dispatchers(url, sections, stress.processes) as running:
            kills = _until_ended(database, settings, key, running, stress)
        seconds = time.monotonic() - started
    return Fought(batch_ids, read_bill(bill), kills, key.top_ups, seconds)


def read_bill(path: Path) -> list[Billed]:
    """The upstream's bill, call by call."""
    with path.open(newline="") as lines:
        return [
            Billed(row["client_request_id"], row["model"], int(row["input_tokens"]), int(row["output_tokens"]))
            for row in csv.DictReader(lines)
        ]


def _sections(base_url: str, stress: Stress) -> dict[str, Any]:
    """Short leases and small claim chunks, so that a death is seen soon and burns little."""
    model = {"base_url": base_url, "max_output_tokens": 128, "expected_output_tokens": 40, "max_concurrency": 32}
    model["timeout_s"] = stress.timeout_s
    return {
        "models": {"strong": STRONG | model, "weak": WEAK | model},
        "dispatch": {
            "claim_chunk": 16,
            "lease_s": stress.lease_s,
            "renew_s": stress.lease_s / 4,
            "settle_interval_ms": 50,
            "idle_s": 0.5,
            "backoff_base_s": 0.05,
            "backoff_max_s": 1,
        },
        "sweep": {"interval_s": 1, "announce_after_s": 2},
    }


def _batches(database: Database, settings: Settings, stress: Stress) -> tuple[list[str], list[int]]:
    """Batches of like size, planned, and their budgets. Every prompt is another one."""
    problems = generate(stress.requests, stress.seed)
    made, budgets = [], []
    for number, share in enumerate(SHARES):
        lines = [chat_line(f"line-{n}", f"{n}. {p.prompt}") for n, p in enumerate(problems[number :: len(SHARES)])]
        budgets.append(_budget(lines, settings, share))
        made.append(planned_batch(database, lines, settings, budget_nano=budgets[-1]))
    return made, budgets


def _budget(lines: list[dict[str, Any]], settings: Settings, share: float) -> int:
    prices = price_book(settings)
    expected = {}
    for name, model in settings.models.items():
        price = prices.price(name, 0)
        expected[name] = sum(expected_nano(price, input_bytes(line["body"]), None, 1, model) for line in lines)
    least = round(1.02 * expected["weak"]) + NANO // 1000
    return least + round(share * (expected["strong"] - expected["weak"]))


class _Key:
    """The key that the batches are made to share, and its limit."""

    def __init__(self, database: Database, batch_ids: list[str], budgets_nano: int) -> None:
        self._database, self.batch_ids, self.top_ups = database, batch_ids, 0
        self._more = round(TOP_UP_SHARE * budgets_nano)
        with database.transaction() as session:
            self._id = session.get_one(Batch, batch_ids[0]).api_key_id
            session.execute(text("update batches set api_key_id = :key"), {"key": self._id})
            set_limit(session, self._id, Period.ALL, round(KEY_SHARE * budgets_nano))

    def raise_if_it_binds(self) -> None:
        with self._database.transaction() as session:
            if session.scalar(text("select exists (select from batches where paused = 'key_budget')")):
                top_up(session, self._id, Period.ALL, self._more)
                self.top_ups += 1


def _until_ended(
    database: Database, settings: Settings, key: _Key, running: Dispatchers, stress: Stress
) -> list[tuple[float, int]]:
    """Sweep, kill, raise the limit and look until the batches have ended. Returns the kills."""
    rng = random.Random(f"kills {stress.seed}")
    points = sorted(rng.uniform(0.02, 0.95) * stress.requests for _ in range(stress.kills))
    kills: list[tuple[float, int]] = []
    publisher = AtOnce(database, settings)
    started = time.monotonic()
    while True:
        key.raise_if_it_binds()
        sweep(database, settings, publisher)
        with database.transaction() as session:
            query = text("select state::text, succeeded + failed from batches where id = any(:ids)")
            rows = session.execute(query, {"ids": key.batch_ids}).all()
        done = sum(row[1] for row in rows)
        while points and done >= points[0]:
            del points[0]
            kills.append((round(time.monotonic() - started, 2), running.kill(rng.choice(running.processes))))
        if all(row[0] in TERMINAL for row in rows):
            return kills
        if time.monotonic() - started > stress.seconds:
            raise TimeoutError(f"after {stress.seconds:g} s: {done} of {stress.requests} lines have ended, {rows}")
        time.sleep(LOOK_S)
