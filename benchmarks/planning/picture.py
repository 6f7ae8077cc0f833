"""The README's picture: quality against dollars, every dot a run of recorded answers through a whole stack.

`python -m benchmarks.planning.picture --data gsm8k.csv.gz --output docs/images/quality-by-dollars.svg [--json FILE]`;
the table has the columns of `benchmarks.planning.replay`. No router may know the prompts that it routes: `gain` is
fitted on each half of the table and routes the other half, as a batch of its own under half of the budget. A dot is the
sum of both batches. Beside routebatch stand the same budgets with a random router, all-weak and all-strong.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.harness import Stack, running_stack
from benchmarks.planning.replay import CAP, STRONG, WEAK, replay
from training.data.labels import Labels
from training.fit.gain import fit_labels

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)  # of the span from all-weak to all-strong
HALVES = ("half-0", "half-1")
WITHOUT_LIMIT = "100"

Rows = list[dict[str, str]]
Dot = dict[str, Any]  # usd, quality, to_strong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="an SVG file")
    parser.add_argument("--json", type=Path, help="also write the dots")
    parser.add_argument("--seed", type=int, default=0, help="of the halves, and of the fits")
    options = parser.parse_args()
    opened = gzip.open if options.data.suffix == ".gz" else open
    with opened(options.data, "rt", encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    dots = measure(options.data, halves_of(rows, options.seed), options.seed)
    if options.json:
        options.json.write_text(json.dumps(dots, indent=1) + "\n", encoding="utf-8")
    draw(dots, len(rows), options.output)


def halves_of(rows: Rows, seed: int) -> list[Rows]:
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    return [[rows[i] for i in order[: len(rows) // 2]], [rows[i] for i in order[len(rows) // 2 :]]]


def measure(data: Path, halves: list[Rows], seed: int) -> dict[str, list[Dot]]:
    """The dots by policy, one stack for all of them."""
    names = ("--replay", str(data), "--strong-model", STRONG, "--weak-model", WEAK)
    with tempfile.TemporaryDirectory(prefix="rb-picture-") as directory:
        extra = "[routing.artifacts]\n"
        for name, other in zip(HALVES, reversed(halves), strict=True):
            router = Path(directory, name)
            fit_labels(labels_of(other), seed=seed).save(router)
            extra += f'{name} = "{router}"\n'
        with running_stack(*names, strong=STRONG, weak=WEAK, cap=CAP, extra=extra) as stack:
            weak, strong = (fixed_share(stack, halves, share) for share in ("0", "1"))
            budgets = [weak["usd"] + share * (strong["usd"] - weak["usd"]) for share in SHARES]
            return {
                "all-weak": [weak],
                "all-strong": [strong],
                "routebatch": [under(stack, halves, usd, HALVES) for usd in budgets],
                "random": [under(stack, halves, usd, ("random", "random")) for usd in budgets],
            }


def labels_of(rows: Rows) -> Labels:
    gain = np.array([float(row["strong_correct"]) - float(row["weak_correct"]) for row in rows])
    return Labels([row["prompt"] for row in rows], gain, np.ones(len(rows)), ["golden"] * len(rows))


def fixed_share(stack: Stack, halves: list[Rows], share: str) -> Dot:
    wish = {"mode": "share", "strong_share": share, "router": "random"}
    return summed([(len(rows), replay(stack, rows, WITHOUT_LIMIT, wish)) for rows in halves])


def under(stack: Stack, halves: list[Rows], usd: float, routers: tuple[str, ...]) -> Dot:
    """Both halves, each under its share of the budget and scored by its own router."""
    total = sum(map(len, halves))
    runs = []
    for rows, router in zip(halves, routers, strict=True):
        budget = f"{usd * len(rows) / total:.6f}"
        runs.append((len(rows), replay(stack, rows, budget, {"router": router})))
    return summed(runs) | {"budget_usd": round(usd, 6)}


def summed(runs: list[tuple[int, dict[str, Any]]]) -> Dot:
    prompts = sum(n for n, _ in runs)
    return {
        "usd": float(sum(Decimal(run["settled_usd"]) for _, run in runs)),
        "quality": sum(n * run["accuracy"] for n, run in runs) / prompts,
        "to_strong": sum(run["to_strong"] for _, run in runs),
    }


def draw(dots: dict[str, list[Dot]], prompts: int, output: Path) -> None:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    ends = [dots["all-weak"][0], dots["all-strong"][0]]
    for name, style, color in (("routebatch", "o-", "#0b6e4f"), ("random", "s--", "#8a8a8a")):
        line = [ends[0], *dots[name], ends[1]]
        axes.plot([dot["usd"] for dot in line], [100 * dot["quality"] for dot in line], style, color=color, label=name)
    for name, end, place in (("all-weak", ends[0], (12, -9)), ("all-strong", ends[1], (-62, -4))):
        at = (end["usd"], 100 * end["quality"])
        axes.plot(*at, "D", color="black", markersize=7)
        axes.annotate(name, at, xytext=place, textcoords="offset points")
    axes.set_xlabel("dollars settled")
    axes.set_ylabel("right answers, %")
    axes.set_title(f"{prompts:,} GSM8K questions, recorded answers, through a whole stack", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    main()
