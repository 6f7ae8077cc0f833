"""What a part of `benchmarks.chaos` is told by: what was done, what ended how, the money, what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from routing_service.money.pricing import format_usd
from tests.support.chaos.chaos import Endured
from tests.support.chaos.stress_account import Account

SUMS = ("lines", "answered", "limit", "settled", "billed")


def summary(endured: Endured, account: Account) -> dict[str, Any]:
    """Of one part, for JSON; money in nano-dollars."""
    strikes = Counter(f"{strike.action} {strike.target}" for strike in endured.strikes)
    return {
        "seconds": round(endured.seconds, 1),
        "batches": [asdict(batch) for batch in account.batches],
        "calls_billed": len(endured.bills),
        "strikes": dict(sorted(strikes.items())),
        "attempts": dict(account.attempts),
        "causes": dict(account.causes),
        "wrong": account.wrong,
    }


def show(console: Console, parts: dict[str, dict[str, Any]]) -> None:
    """A line a part, then how its attempts and lines ended and how often who was struck how."""
    table = Table(
        "part", "seconds", "strikes", "batches", "lines", "answered", "limit $", "settled $", "billed $", "wrong"
    )
    for name, made in parts.items():
        if "skipped" in made:
            table.add_row(name, made["skipped"])
            continue
        lines, answered, *money = (sum(batch[column] for batch in made["batches"]) for column in SUMS)
        cells = [f"{lines:,}", f"{answered:,}", *map(format_usd, money), str(len(made["wrong"]))]
        struck = str(sum(made["strikes"].values()))
        table.add_row(name, f"{made['seconds']:.0f}", struck, str(len(made["batches"])), *cells)
    console.print(table)
    for name, made in parts.items():
        for kind in ("attempts", "causes", "strikes"):
            if counts := made.get(kind):
                said = ", ".join(f"{what} {count:,}" for what, count in sorted(counts.items()))
                console.print(f"{name}, {kind}: {said}")
