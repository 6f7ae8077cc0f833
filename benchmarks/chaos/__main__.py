"""Whether the whole stack survives: all its processes struck at random for minutes, a faulty upstream, a full disk.

`python -m benchmarks.chaos [--minutes 5] [--seed 1] [--only strikes|disk] [--lines 150] [--open-batches 3] [--json]`

Clients keep a few batches open by the API. Meanwhile processes are killed (with and without their children), frozen and
told to end, supervisord among them, and the broker is emptied; every strike is named on stderr. Of a hundred calls to
the upstream nineteen fail. Then Postgres's disk, a small one of its own, is full for a while. After each part every
batch must end, every line once and with its own answer, the upstream's bill is held call by call against the attempts,
and the ledger against both. Exits with 1, and says what is wrong, if anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.chaos.disk import full_disk
from benchmarks.chaos.report import show, summary
from tests.support.chaos.chaos import FAULTS, Chaos, endure, settle_accounts, troubled_stack

ROUND_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="of strikes, in rounds of half a minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["strikes", "disk"])
    parser.add_argument("--lines", type=int, default=150, help="of a batch")
    parser.add_argument("--open-batches", type=int, default=3)
    parser.add_argument("--rest-s", type=float, default=300, help="in which all must end when the trouble is over")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds = max(1, round(options.minutes * 60 / ROUND_S))
    chaos = Chaos(options.seed, rounds, ROUND_S, options.rest_s, options.lines, options.open_batches)
    say(f"{chaos}, faults {FAULTS}")
    parts = {}
    if options.only != "disk":
        parts["strikes"] = strikes(chaos)
    if options.only != "strikes":
        parts["full disk"] = full_disk(chaos)
    if options.json:
        sys.stdout.write(json.dumps(parts, indent=2) + "\n")
    else:
        show(Console(width=140), parts)
    wrong = [line for made in parts.values() for line in made.get("wrong", [])]
    sys.stderr.write("".join(f"WRONG: {line}\n" for line in wrong))
    raise SystemExit(1 if wrong else 0)


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def strikes(chaos: Chaos) -> dict[str, Any]:
    """The part in which processes are struck."""
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory, troubled_stack(Path(directory), chaos) as made:
        endured = endure(*made, chaos, say)
        return summary(endured, settle_accounts(made[0], chaos, endured))


if __name__ == "__main__":
    main()
