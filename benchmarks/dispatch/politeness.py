"""Several pumps against an upstream that enforces a limit a minute: the rate they reach, and what is refused.

`python -m benchmarks.dispatch.politeness [--requests 600 6000] [--tokens 200000] [--pumps 4] [--seconds 60]`

Each pump is a process of its own; they share Postgres and Valkey. The upstream counts a sliding minute. Each limit is
measured twice: configured as `requests_per_minute` or `tokens_per_minute`, and told only by the upstream's headers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from deploy.processes import resolve
from deploy.servers import run_postgres, run_valkey
from migrations.runner import upgrade
from routing_service.db import Database
from routing_service.events import DispatchDue
from routing_service.service import Service, handle
from routing_service.settings import load_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import NANO, Planned, make_planned_batch

SETTLING_IN_S = 10
LEAST_TOKENS = 30  # that a call takes, answer included
CONFIG = """
database_url = "{database}"
broker_url = "{broker}"
[models.weak]
name = "sandbox-weak"
base_url = "{upstream}"
input_usd_per_million = 1
output_usd_per_million = 1
{limit}
[models.strong]
name = "sandbox-strong"
base_url = "{upstream}"
input_usd_per_million = 1
output_usd_per_million = 1
[routing]
candidates = ["weak", "strong"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="*", default=[600, 6000])
    parser.add_argument("--tokens", type=int, nargs="*", default=[200_000])
    parser.add_argument("--pumps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--latency-ms", default="200")
    parser.add_argument("--pump", action="store_true", help="be one of the pumps")
    options = parser.parse_args()
    if options.pump:
        pump_until_told()
        return
    table = Table(
        "limit a minute", "known by", "pumps", "reached", "of the limit", "429s of calls", "pump CPU ms a call"
    )
    limits = [("requests", limit) for limit in options.requests] + [("tokens", limit) for limit in options.tokens]
    for what, limit in limits:
        for known_by in ("configuration", "headers"):
            configured = f"{what}_per_minute = {limit}" if known_by == "configuration" else ""
            figures = measure(what, limit, configured, options)
            table.add_row(f"{limit:,} {what}", known_by, str(options.pumps), *figures)
    Console(width=120).print(table)


def measure(what: str, limit: int, configured: str, options: argparse.Namespace) -> list[str]:
    """One run: what was answered a minute, its share of the limit, the share of calls refused, CPU a call."""
    limits = ["--latency-ms", options.latency_ms, f"--{what}-per-minute", str(limit)]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-polite-")))
        url = stack.enter_context(run_postgres(directory / "pg"))
        broker = stack.enter_context(run_valkey(directory / "valkey"))
        upstream = stack.enter_context(_sandbox(*limits))
        config = directory / "routebatch.toml"
        config.write_text(CONFIG.format(database=url, broker=broker, upstream=upstream, limit=configured))
        upgrade(url)
        _plan(url, int(limit / (1 if what == "requests" else LEAST_TOKENS) / 60 * (options.seconds + 120)))
        started = [stack.enter_context(_pump(config)) for _ in range(options.pumps)]
        _wait_for(url, options.pumps)
        time.sleep(SETTLING_IN_S)
        before, cpu_before, began = _account(upstream), sum(map(_cpu_s, started)), time.monotonic()
        time.sleep(options.seconds)
        after, cpu, took = _account(upstream), sum(map(_cpu_s, started)) - cpu_before, time.monotonic() - began
    done = Counter(after)
    done.subtract(before)
    reached = done["answered"] if what == "requests" else done["input_tokens"] + done["output_tokens"]
    a_minute = reached / took * 60
    refused, cpu_each = done["limited"] / done["calls"], cpu / done["calls"]
    return [f"{a_minute:,.0f}", f"{a_minute / limit:.1%}", f"{refused:.2%}", f"{cpu_each * 1000:.2f}"]


def _plan(url: str, requests: int) -> None:
    database = Database(url)
    with database.transaction() as session:
        prompts = [Planned(ratio=0.0, prompt=f"Prompt {n}") for n in range(requests)]
        make_planned_batch(session, prompts, budget_nano=1000 * NANO, shadow_price=1.0)
    database.dispose()


def _wait_for(url: str, pumps: int) -> None:
    """Until so many pumps are at work."""
    database = Database(url)
    at_work = 0
    while at_work < pumps:
        time.sleep(0.2)
        with database.transaction() as session:
            at_work = session.scalar(text("select count(*) from pumps where expires_at > now()")) or 0
    database.dispose()


@contextmanager
def _sandbox(*options: str) -> Iterator[str]:
    command = [*resolve(("routebatch",)), "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sandbox:
        assert sandbox.stdout is not None
        try:
            yield sandbox.stdout.readline().split()[-1]
        finally:
            sandbox.terminate()


@contextmanager
def _pump(config: Path) -> Iterator[int]:
    environment = os.environ | {"ROUTEBATCH_CONFIG": str(config)}
    command = [sys.executable, "-m", "benchmarks.dispatch.politeness", "--pump"]
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def _account(upstream: str) -> dict[str, int]:
    with urllib.request.urlopen(upstream.removesuffix("/v1") + "/stats", timeout=30) as answer:
        models = json.load(answer)["models"]
    return dict(models.get("sandbox-weak", {}))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pump_until_told() -> None:
    """Stretch after stretch, as a worker's child does, until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    service = Service.of(load_settings(), FakePublisher(), stop.is_set)
    while not stop.is_set():
        handle(service, DispatchDue())
    service.close()


if __name__ == "__main__":
    main()
