"""Requests a second and CPU a request of dispatching: routebatch end to end, litellm's Router, a Celery task a prompt
and the bare openai client.

`python -m benchmarks.dispatch [--repeats 3] [--scale 1] [--peers-env DIRECTORY] [--json FILE]`

All call one loopback upstream (50 ms) for the same prompts. Before a run routebatch's requests are planned; at its end
they are paid, settled and persisted in a durable Postgres; the others keep nothing. Each client is bound to one core;
database, broker and upstream have another. Runs take turns. After that, 1, 2 and 4 dispatch processes share a batch,
and all cores with everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.dispatch.sides import Side, Took, celery_side, client_side, make_litellm, on_cores, pump_side, staging

CALLS = {"routebatch": 10_000, "litellm": 600, "celery": 600, "openai": 1_200}  # a few seconds of each
NAMES = {
    "routebatch": "routebatch, planned to persisted",
    "litellm": "litellm Router",
    "celery": "a Celery task a prompt, prefork 8",
    "openai": "openai client, async",
}
WANTED = {"litellm": "10 (15)", "celery": "10"}
WARM_UP = 0.1  # of a run, goes before the first one
Runs = dict[str, list[Took]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of calls of every run")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--sides", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4], help="none: without that part")
    parser.add_argument("--peers-env", type=Path, help="where litellm is or will be installed; otherwise for once")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=120)
    runs, pumps = sides(options), processes(options)
    console.print(as_table(runs))
    if pumps:
        console.print(growth(pumps))
    if options.json:
        results = {**runs, **{f"processes {name}": took for name, took in pumps.items()}}
        options.json.write_text(
            json.dumps({name: [_figures(t) for t in took] for name, took in results.items()}, indent=2)
        )


def sides(options: argparse.Namespace) -> Runs:
    """Every side on the first core, what they stand on on the second."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the clients, one for what they stand on")
    with ExitStack() as stack:
        python = (
            make_litellm(stack.enter_context(_directory(options.peers_env))) if "litellm" in options.sides else None
        )
        stack.enter_context(on_cores([cores[1]]))
        stage = stack.enter_context(staging(options.latency_ms))
        ready: dict[str, Side] = {}
        for name in options.sides:
            if name == "celery":
                ready[name] = stack.enter_context(celery_side(stage, [cores[0]]))
                continue
            with on_cores([cores[0]]):
                if name == "routebatch":
                    side = pump_side(stage, options.in_flight, 1)
                else:
                    kind = python if name == "litellm" and python else Path(sys.executable)
                    side = client_side(kind, name, stage, options.in_flight)
                ready[name] = stack.enter_context(side)
        return take_turns(ready, {name: int(CALLS[name] * options.scale) for name in ready}, options.repeats)


def processes(options: argparse.Namespace) -> Runs:
    """Dispatch processes that share a batch, on all cores."""
    if not options.processes:
        return {}
    with ExitStack() as stack:
        stage = stack.enter_context(staging(options.latency_ms))
        ready = {str(n): stack.enter_context(pump_side(stage, options.in_flight, n)) for n in options.processes}
        calls = int(CALLS["routebatch"] * options.scale)
        return take_turns(ready, dict.fromkeys(ready, calls), options.repeats)


def take_turns(ready: dict[str, Side], calls: dict[str, int], repeats: int) -> Runs:
    """Runs of each side, interleaved, so that what else the machine does falls on all alike."""
    runs: Runs = {name: [] for name in ready}
    for name, side in ready.items():
        side(max(1, int(calls[name] * WARM_UP)))
    for _ in range(repeats):
        for name, side in ready.items():
            took = side(calls[name])
            runs[name].append(took)
            sys.stderr.write(f"{name}: {took.rate:,.0f} requests/s, {took.cpu_ms:.2f} ms CPU a request\n")
    return runs


@contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="rb-peers-") as directory:
        yield Path(directory)


def as_table(runs: Runs) -> Table:
    table = Table(
        "client, on one core",
        "requests/s",
        "slowest and fastest run",
        "CPU ms a request",
        "routebatch is",
        "wanted (aim)",
    )
    ours = statistics.median(t.rate for t in runs["routebatch"]) if "routebatch" in runs else None
    for name, took in runs.items():
        times = (
            f"{ours / statistics.median(t.rate for t in took):.1f} times as fast"
            if ours and name != "routebatch"
            else ""
        )
        table.add_row(NAMES[name], *_cells(took), times, WANTED.get(name, ""))
    return table


def growth(runs: Runs) -> Table:
    table = Table("dispatch processes, on all cores", "requests/s", "slowest and fastest run", "CPU ms a request")
    for name, took in runs.items():
        table.add_row(name, *_cells(took))
    return table


def _cells(took: list[Took]) -> tuple[str, str, str]:
    rates = [t.rate for t in took]
    cpu = statistics.median(t.cpu_ms for t in took)
    return f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", f"{cpu:.2f}"


def _figures(took: Took) -> dict[str, float]:
    return {
        "calls": took.calls,
        "seconds": took.seconds,
        "requests_per_s": took.rate,
        "cpu_ms_per_request": took.cpu_ms,
    }


if __name__ == "__main__":
    main()
