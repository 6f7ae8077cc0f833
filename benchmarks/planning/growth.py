"""How a plan's time, memory and integral gap grow with requests and models: each size in a process of its own.

`python -m benchmarks.planning.growth [--requests 10000 100000 1000000] [--models 2 4] [--json]`

Costs are log-normal, sorted by model; qualities rise with the model by chance. Timed: the ranking of all increments,
one cut of it, at half of what all of them cost, and a ladder of twelve budgets with their intervals. The gap is what
the best plan with a request split between models would gain more at that cut, at most, as a share of the gain.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from routing_service.planning import Ranking, damping_of, frontier, steps

MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--models", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    rows = [_child(n, m) for m in options.models for n in options.requests]
    if options.json:
        print(json.dumps(rows))
        return
    table = Table("models", "requests", "rank s", "cut s", "ladder s", "peak MiB", "of it inputs", "gap of the gain")
    for row in rows:
        seconds = (f"{row[key]:.3f}" for key in ("rank_s", "cut_s", "ladder_s"))
        sizes = (f"{row[key] / MIB:,.0f}" for key in ("peak", "inputs"))
        table.add_row(f"{row['models']:.0f}", f"{row['requests']:,.0f}", *seconds, *sizes, f"{row['gap']:.1e}")
    Console(width=120).print(table)


def _child(n: int, m: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.planning.growth", "--child", str(n), str(m)]
    row: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return row


def measure(n: int, m: int) -> dict[str, float]:
    """Seconds of each step, resident bytes at the peak and before the first step, and the gap's share of the gain."""
    draw = np.random.default_rng(0)
    cost = np.sort(draw.lognormal(12, 1, (n, m)), axis=1).astype(np.int64)
    quality = np.column_stack([np.full(n, 0.5), 0.5 + draw.random((n, m - 1)) / 2]).astype(np.float32)
    std = np.full((n, m), 0.1, np.float32)
    line = draw.permutation(n).astype(np.int64) + 1
    inputs = _peak()
    started = time.perf_counter()
    ranking = Ranking.of(cost, quality, line, steps(cost, quality, damping_of(cost)))
    ranked = time.perf_counter()
    plan = ranking.within(ranking.base + int(ranking.spent[-1]) // 2)
    cut = time.perf_counter()
    frontier(ranking, std)
    times = {"rank_s": ranked - started, "cut_s": cut - ranked, "ladder_s": time.perf_counter() - cut}
    return {
        "requests": n,
        "models": m,
        **times,
        "peak": _peak(),
        "inputs": inputs,
        "gap": plan.gap / plan.expected_gain,
    }


def _peak() -> float:
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
