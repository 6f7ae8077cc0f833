"""How good and how fast the gain router is, on outcome tables given by path.

`OPENBLAS_NUM_THREADS=1 python -m benchmarks.routers MMLU_TABLE GSM8K_TABLE [--seeds 5] [--repeats 7]`

Quality: APGR by ten bins on the prompts that a fit has not seen, over seeds. Speed: processor time of all threads from
prompt text to gain with the router that ships, the median of runs whose tables take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from routing_service.routers import DEFAULT_ARTIFACT
from routing_service.routers.gain import GainRouter
from training.data import Labels, split
from training.default import joined
from training.evaluation import apgr, apgr_ten_bins, calibration_error, oracle
from training.gain import GainOptions, fit_labels
from training.readers import load_comparisons

PROMPTS = 8192  # a run
SINGLES = 500
FITS = (("mmlu", 1500), ("mmlu", 5000), ("gsm8k", 400))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mmlu", type=Path)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    tables = {name: load_comparisons([getattr(options, name)]).comparisons.labels() for name in ("mmlu", "gsm8k")}
    console = Console(width=120)
    console.print(quality(tables, options.seeds))
    console.print(speed(tables, options.repeats))
    console.print(fitting(joined(list(tables.values()))))
    size = sum(file.stat().st_size for file in DEFAULT_ARTIFACT.iterdir())
    console.print(f"the artifact that ships: {size:,} bytes")


def quality(tables: dict[str, Labels], seeds: int) -> Table:
    table = Table("labels", "APGR, ten bins", "APGR, exact", "oracle, ten bins", "calibration error")
    for name, count in FITS:
        rows = []
        for seed in range(seeds):
            fitted, rest = split(tables[name], count / len(tables[name]), seed)
            rates = fit_labels(fitted, seed=seed).win_rates(rest.prompts, "strong", "weak")
            best = oracle(rest.gain, apgr_ten_bins)
            rows.append(
                (apgr_ten_bins(rates, rest.gain), apgr(rates, rest.gain), best, calibration_error(rates, rest.gain))
            )
        mean, spread = np.mean(rows, 0), np.std(rows, 0)
        table.add_row(f"{name}, about {count:,}", *(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)))
    return table


def speed(tables: dict[str, Labels], repeats: int) -> Table:
    started = time.perf_counter()
    router = GainRouter.load(DEFAULT_ARTIFACT)
    loading = time.perf_counter() - started
    prompts = {name: (labels.prompts * (PROMPTS // len(labels) + 1))[:PROMPTS] for name, labels in tables.items()}
    rates: dict[str, list[float]] = {name: [] for name in tables}
    singles: dict[str, list[float]] = {name: [] for name in tables}
    router.gains(prompts["mmlu"][:1024])
    for _ in range(repeats):
        for name, of_table in prompts.items():
            rates[name].append(PROMPTS / _seconds(router.gains, of_table))
            singles[name].extend(_seconds(router.gains, [prompt]) for prompt in of_table[:SINGLES])
    table = Table("prompts", "prompts/s, one core", "slowest and fastest run", "one prompt alone, ms")
    for name, found in rates.items():
        span = f"{min(found):,.0f} to {max(found):,.0f}"
        alone = f"{1000 * statistics.median(singles[name]):.2f}"
        table.add_row(name, f"{statistics.median(found):,.0f}", span, alone)
    table.caption = f"loading the router: {1000 * loading:.0f} ms"
    return table


def fitting(labels: Labels) -> Table:
    """Seconds of a fit without calibration, by labels, on landmarks: linear."""
    table = Table("labels", "fit s, landmarks", "fit s, exact")
    for count in (1000, 2000, 4000, 8000, 16_000, 64_000):
        rows = labels.take(np.arange(count) % len(labels))
        seconds = [_seconds(_fit, rows, 0)]
        if count <= GainOptions().exact_rows:
            seconds.append(_seconds(_fit, rows, count))
        table.add_row(f"{count:,}", *(f"{one:.1f}" for one in seconds))
    return table


def _fit(labels: Labels, exact_rows: int) -> None:
    fit_labels(labels, seed=0, options=GainOptions(exact_rows=exact_rows, calibration_share=0))


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


if __name__ == "__main__":
    main()
