"""Dispatch under fire: pumps in processes of their own, killed at random, against an upstream that errs.

Several batches with budgets from too little to plenty are planned and dispatched until all of them have ended; whoever
is killed is replaced. `tests.stress_account` says afterwards whether the money was kept. Used by tests and benchmarks.
"""

from __future__ import annotations

import asyncio
import csv
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from sqlalchemy import text

from routing_service.batches.finish import finish
from routing_service.batches.pump import Pump
from routing_service.batches.replan import replan
from routing_service.batches.sweep import sweep
from routing_service.body import input_bytes
from routing_service.db import Database
from routing_service.models import TERMINAL
from routing_service.pricing import NANO, expected_nano, price_book
from routing_service.settings import Settings
from routing_service.upstream import Upstreams
from sandbox.problems import generate
from tests.factories import STRONG, WEAK, chat_line, make_settings, planned_batch
from tests.fakes import FakePublisher
from tests.sandbox_server import sandbox_process

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

LOOK_S = 0.2


@dataclass(frozen=True)
class Stress:
    """What is to be done. `kills`: how many dispatch processes are killed, each at another point of the progress."""

    requests: int
    kills: int
    seed: int
    processes: int = 8
    latency_ms: float = 30
    seconds: float = 120  # after which it is given up


@dataclass(frozen=True)
class Billed:
    """A line of the upstream's bill."""

    call_id: str
    model: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Fought:
    """What was left on the field: the batches, the upstream's bill, and who was killed when (seconds, process id)."""

    settings: Settings
    batch_ids: list[str]
    bills: list[Billed]
    kills: list[tuple[float, int]]
    seconds: float


class AtOnce(FakePublisher):
    """Does at once, in the process that announces it, what a worker would do for a message."""

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__()
        self._database, self._settings = database, settings

    def plan(self, batch_id: str) -> None:
        replan(self._database, self._settings, batch_id)

    def finish(self, batch_id: str) -> None:
        finish(self._database, batch_id)


def fight(database: Database, url: str, directory: Path, stress: Stress) -> Fought:
    """Run until every batch has ended. TimeoutError if they do not; nothing is left running in any case."""
    bill = directory / "billed.csv"
    rates = [word for name, rate in FAULTS.items() for word in (f"--{name}", str(rate))]
    options = ["--latency-ms", str(stress.latency_ms), "--seed", str(stress.seed), "--billed", str(bill), *rates]
    with sandbox_process(*options) as base_url:
        sections = _sections(base_url)
        settings = make_settings(**sections)
        batch_ids = _batches(database, settings, stress)
        started = time.monotonic()
        with _dispatchers(url, sections, stress.processes) as army:
            kills = _until_ended(database, settings, batch_ids, army, stress)
        seconds = time.monotonic() - started
    with bill.open(newline="") as lines:
        bills = [
            Billed(row["client_request_id"], row["model"], int(row["input_tokens"]), int(row["output_tokens"]))
            for row in csv.DictReader(lines)
        ]
    return Fought(settings, batch_ids, bills, kills, seconds)


def _sections(base_url: str) -> dict[str, Any]:
    """Short leases and small bites, so that a death is seen soon and burns little."""
    model = {"base_url": base_url, "max_output_tokens": 128, "expected_output_tokens": 40, "max_concurrency": 32}
    return {
        "models": {"strong": STRONG | model | {"timeout_s": 5}, "weak": WEAK | model | {"timeout_s": 5}},
        "dispatch": {
            "bite": 16,
            "lease_s": 4,
            "renew_s": 1,
            "settle_interval_ms": 50,
            "idle_s": 0.5,
            "backoff_base_s": 0.05,
            "backoff_max_s": 1,
        },
        "sweep": {"interval_s": 1, "announce_after_s": 2},
    }


def _batches(database: Database, settings: Settings, stress: Stress) -> list[str]:
    """Batches of like size, planned. Every prompt is another one."""
    problems = generate(stress.requests, stress.seed)
    made = []
    for number, share in enumerate(SHARES):
        lines = [chat_line(f"line-{n}", f"{n}. {p.prompt}") for n, p in enumerate(problems[number :: len(SHARES)])]
        made.append(planned_batch(database, lines, settings, budget_nano=_budget(lines, settings, share)))
    return made


def _budget(lines: list[dict[str, Any]], settings: Settings, share: float) -> int:
    prices = price_book(settings)
    expected = {}
    for name, model in settings.models.items():
        price = prices.price(name, 0)
        expected[name] = sum(expected_nano(price, input_bytes(line["body"]), None, 1, model) for line in lines)
    least = round(1.02 * expected["weak"]) + NANO // 1000
    return least + round(share * (expected["strong"] - expected["weak"]))


class _Army:
    """The dispatch processes. Only these are ever killed."""

    def __init__(self, url: str, sections: dict[str, Any]) -> None:
        self._arguments = (url, sections)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["__main__", __name__])
        self.processes: list[ForkServerProcess] = []

    def add(self) -> None:
        process = self._context.Process(target=_dispatch, args=self._arguments, daemon=True)
        process.start()
        self.processes.append(process)

    def kill(self, victim: ForkServerProcess) -> int:
        """SIGKILL, and another takes its place. Returns the dead one's id."""
        self.processes.remove(victim)
        victim.kill()
        victim.join()
        self.add()
        assert victim.pid
        return victim.pid

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(30)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@contextmanager
def _dispatchers(url: str, sections: dict[str, Any], count: int) -> Iterator[_Army]:
    army = _Army(url, sections)
    try:
        for _ in range(count):
            army.add()
        yield army
        army.stop()
    finally:
        army.end()


def _until_ended(
    database: Database, settings: Settings, batch_ids: list[str], army: _Army, stress: Stress
) -> list[tuple[float, int]]:
    """Sweep, kill and look until the batches have ended. Returns the kills."""
    rng = random.Random(f"kills {stress.seed}")
    points = sorted(rng.uniform(0.02, 0.95) * stress.requests for _ in range(stress.kills))
    kills: list[tuple[float, int]] = []
    publisher = AtOnce(database, settings)
    started = time.monotonic()
    while True:
        sweep(database, settings, publisher)
        with database.transaction() as session:
            query = text("select state::text, succeeded + failed from batches where id = any(:ids)")
            rows = session.execute(query, {"ids": batch_ids}).all()
        done = sum(row[1] for row in rows)
        while points and done >= points[0]:
            del points[0]
            kills.append((round(time.monotonic() - started, 2), army.kill(rng.choice(army.processes))))
        if all(row[0] in TERMINAL for row in rows):
            return kills
        if time.monotonic() - started > stress.seconds:
            raise TimeoutError(f"after {stress.seconds:g} s: {done} of {stress.requests} lines have ended, {rows}")
        time.sleep(LOOK_S)


def _dispatch(url: str, sections: dict[str, Any]) -> None:
    """A dispatch process: one pump after the other until SIGTERM."""
    settings = make_settings(**sections)
    database = Database(url)
    stopping = asyncio.Event()

    async def run() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        upstreams = Upstreams(settings.models, settings.dispatch.max_response_bytes)
        prices, publisher = price_book(settings), AtOnce(database, settings)
        while not stopping.is_set():
            await Pump(database, settings, prices, upstreams, publisher, stopping.is_set).run()
            await asyncio.sleep(LOOK_S)
        await upstreams.close()

    asyncio.run(run())
    database.dispose()
