"""How time and memory grow with comparisons and prompts: every fit and every scoring in a process of its own.

`python -m benchmarks.routers.growth --data mmlu.csv.gz [--methods gain,similarity_weighted,matrix_factorization]
[--comparisons 10000 100000 1000000] [--prompts 1000 10000 100000] [--encoder static]`

Prompts are recombined from those of the files, and outcomes drawn, so that there are as many as wanted. A router is
fitted for each number of comparisons and scores 1,000 prompts; the first one also scores each number of prompts, 1,024
at a time as `routebatch score` does. The embedding cache is off.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from cli.routers.method_options import parse_options
from routing_service.routers.registry import canonical, load_router
from routing_service.settings import Settings
from training.data.comparisons import ROLES, Comparisons
from training.data.readers import load_comparisons
from training.fit.methods import method
from training.progress import silent

MODELS = 64
CHUNK = 1024
SCORED = 1000
PARTS = 3  # of other prompts, that a prompt is made of
MIB = 1 << 20
COLUMNS = ("fit s", "peak MiB", "of it data", "prompts scored", "score s", "peak MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--methods", default="gain,similarity_weighted,matrix_factorization")
    parser.add_argument("--comparisons", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--prompts", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--encoder", default="static")
    parser.add_argument("--set", dest="pairs", action="append", default=[], metavar="METHOD.KEY=VALUE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task = json.loads(options.child)
        work = fit if task.pop("work") == "fit" else score
        sys.stdout.write(json.dumps(work(options.data, **task)) + "\n")
        return
    table = Table("method", "comparisons", *COLUMNS)
    for name in map(canonical, options.methods.split(",")):
        pairs = [pair.partition(".")[2] for pair in options.pairs if canonical(pair.partition(".")[0]) == name]
        for number, count in enumerate(options.comparisons):
            for row in measured(options, name, pairs, count, options.prompts if number == 0 else [SCORED]):
                table.add_row(*row)
    Console(width=140).print(table)


def measured(options: Any, name: str, pairs: list[str], comparisons: int, prompts: list[int]) -> Iterator[list[str]]:
    """A row of the table for every number of prompts, after one fit."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory:
        fitted = in_child(options, work="fit", name=name, pairs=pairs, comparisons=comparisons, directory=directory)
        cells = [f"{fitted['seconds']:.1f}", _mib(fitted["peak"]), _mib(fitted["data"])]
        for count in prompts:
            scored = in_child(options, work="score", directory=directory, prompts=count)
            yield [name, f"{comparisons:,}", *cells, f"{count:,}", f"{scored['seconds']:.1f}", _mib(scored["peak"])]
            cells = [""] * len(cells)


def in_child(options: Any, **task: Any) -> dict[str, float]:
    """What `fit` or `score` measures in a process of its own; `options` has `data` and `encoder`."""
    settings = {"ROUTEBATCH_EMBEDDING__ENCODER": options.encoder, "ROUTEBATCH_EMBEDDING__CACHE_BYTES": "0"}
    command = [sys.executable, "-m", "benchmarks.routers.growth", "--child", json.dumps(task), "--data"]
    done = subprocess.run(
        [*command, *map(str, options.data)], env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, float] = json.loads(done.stdout)
    return row


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f}"


def fit(data: list[Path], name: str, pairs: list[str], comparisons: int, directory: str) -> dict[str, float]:
    """Fit and save a router: seconds, and bytes of resident memory at the peak and before the fit."""
    chosen = method(name)
    options = parse_options(chosen.options, pairs)
    rows = synthetic(load_comparisons(data).comparisons.prompts, comparisons, any_pair=chosen.any_pair)
    before = psutil.Process().memory_info().rss

    def work() -> None:
        chosen.fit(rows, seed=0, options=options, settings=Settings(), progress=silent).save(Path(directory))

    return {**_timed(work), "data": float(before)}


def score(data: list[Path], directory: str, prompts: int) -> dict[str, float]:
    """Load the router and score as many prompts: seconds of scoring, and bytes of resident memory at the peak."""
    texts = recombined(load_comparisons(data).comparisons.prompts, seed=1)
    router = load_router(Path(directory), Settings())
    router.score([next(texts)], ROLES[::-1])  # an encoder is loaded with its first text

    def work() -> None:
        wanted = islice(texts, prompts)
        while chunk := list(islice(wanted, CHUNK)):
            router.score(chunk, ROLES[::-1])

    return _timed(work)


def _timed(work: Callable[[], None]) -> dict[str, float]:
    """Seconds on the clock and of the processor, and bytes of resident memory at the peak."""
    started, worked = time.perf_counter(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "peak": float(peak)}


def recombined(prompts: list[str], seed: int) -> Iterator[str]:
    """Texts without end, each of thirds of three prompts."""
    rng = np.random.default_rng(seed)
    while True:
        for rows in rng.integers(len(prompts), size=(CHUNK, PARTS)).tolist():
            texts = [prompts[row] for row in rows]
            cuts = [(part * len(t) // PARTS, (part + 1) * len(t) // PARTS) for part, t in enumerate(texts)]
            yield "".join(t[a:b] for t, (a, b) in zip(texts, cuts, strict=True))


def synthetic(prompts: list[str], count: int, *, any_pair: bool) -> Comparisons:
    """Comparisons on prompts of their own: of 64 models, or of the pair for methods that know one."""
    rng = np.random.default_rng(0)
    texts = list(islice(recombined(prompts, seed=0), count))
    models = [*ROLES, *(f"model-{number}" for number in range(2, MODELS if any_pair else 2))]
    a = rng.integers(len(models), size=count).astype(np.int32)
    b = ((a + 1 + rng.integers(len(models) - 1, size=count)) % len(models)).astype(np.int32)
    strength = np.linspace(1, -1, len(models))
    outcome = (rng.random(count) < 1 / (1 + np.exp(strength[b] - strength[a]))).astype(float)
    rows = np.arange(count, dtype=np.int32)
    pair = None if any_pair else ROLES
    return Comparisons(texts, models, rows, a, b, outcome, np.ones(count), ["golden"] * count, pair)


if __name__ == "__main__":
    main()
