"""Whether a cent is lost or overspent: 8 dispatch processes, random kills, 5 % errors, budgets that bind.

`python -m benchmarks.chaos.stress [--requests 20000] [--kills 40] [--processes 8] [--seeds 1 2 3] [--json]`

After each run the sandbox's bill is held call by call against the attempts, and the ledger against both: billed <=
settled <= limit, nothing reserved, every nano-dollar of the difference explained by attempts that are `unknown` or
`estimated`, and every line ended exactly once. Exits with 1, and says what is wrong, if anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.servers import run_postgres
from migrations.runner import upgrade
from routing_service.db import Database
from routing_service.money.pricing import format_usd
from tests.support.chaos.stress import FAULTS, Stress, fight
from tests.support.chaos.stress_account import account


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=1800, help="after which a run is given up")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = []
    for seed in options.seeds:
        stress = Stress(options.requests, options.kills, seed, options.processes, options.latency_ms, options.seconds)
        sys.stderr.write(f"{stress}, faults {FAULTS}\n")
        runs.append(run(stress))
    if options.json:
        sys.stdout.write(json.dumps(runs, indent=2) + "\n")
    else:
        show(Console(width=140), runs)
    wrong = [line for made in runs for line in made["wrong"]]
    sys.stderr.write("".join(f"WRONG: {line}\n" for line in wrong))
    raise SystemExit(1 if wrong else 0)


def run(stress: Stress) -> dict[str, Any]:
    """One run on a database of its own: what was asked for, its account, and how long it took."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory, run_postgres(Path(directory, "pg")) as url:
        upgrade(url)
        database = Database(url)
        fought = fight(database, url, Path(directory), stress)
        outcome = account(database, fought.batch_ids, fought.bills)
        database.dispose()
    return {
        "stress": asdict(stress),
        "seconds": round(fought.seconds, 1),
        "kills": fought.kills,
        "top_ups": fought.top_ups,
        "key": outcome.key,
        "batches": [asdict(batch) for batch in outcome.batches],
        "attempts": dict(outcome.attempts),
        "causes": dict(outcome.causes),
        "wrong": outcome.wrong,
    }


def show(console: Console, runs: list[dict[str, Any]]) -> None:
    money = ("limit", "settled", "billed", "above_unknown", "above_estimated")
    table = Table("seed", "batch", "lines", "answered", *(f"{name.replace('_', ' ')} $" for name in money))
    for made in runs:
        for number, batch in enumerate(made["batches"], start=1):
            cells = [format_usd(batch[name]) for name in money]
            table.add_row(
                str(made["stress"]["seed"]), str(number), f"{batch['lines']:,}", f"{batch['answered']:,}", *cells
            )
    console.print(table)
    for made in runs:
        counts = {**made["attempts"], **made["causes"]}
        said = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
        ran = f"{made['seconds']} s, {len(made['kills'])} kills, {made['top_ups']} top-ups of the key"
        console.print(f"seed {made['stress']['seed']}: {ran}; {said}")


if __name__ == "__main__":
    main()
