"""How good the routers of every method are on labels given by path: fitted on some of the prompts, tested on the rest.

`python -m benchmarks.learning.quality --data mmlu.csv.gz --labels 1500 --methods gain,similarity_weighted --seeds 5`

The mean and the standard deviation over seeds, which draw the prompts that are fitted on; APGR exactly and by the ten
bins of RouteLLM, chance is .5. `--set gain.width=0.4` sets an option of one method.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cli.routers.method_options import parse_options
from routing_service.routers.registry import canonical
from routing_service.settings import Settings
from training.data.comparisons import ROLES, Comparisons
from training.data.readers import load_comparisons
from training.evaluate.metrics import apgr, apgr_ten_bins, brier, calibration_error, oracle
from training.fit.methods import METHODS, method
from training.progress import silent

COLUMNS = ("method", "labels", "tested on", "APGR, ten bins", "APGR, exact", "oracle, ten bins", "calibration error")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one seed: what is averaged, in the order of the columns."""

    values: tuple[float, ...]
    fitted: int
    tested: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--labels", type=int, nargs="+", default=[1500], help="about as many prompts are fitted on")
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas; default: all of them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--strong", help="needed where rows name models")
    parser.add_argument("--weak")
    parser.add_argument("--set", dest="pairs", action="append", default=[], metavar="METHOD.KEY=VALUE")
    options = parser.parse_args()
    data = load_comparisons(options.data, strong=options.strong, weak=options.weak).comparisons
    table = Table(*COLUMNS, "Brier", "fit s", "prompts/s")
    for count in options.labels:
        for name in map(canonical, options.methods.split(",")):
            pairs = [pair.partition(".")[2] for pair in options.pairs if canonical(pair.partition(".")[0]) == name]
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            table.add_row(*measured(name, pairs, data, count, seeds))
    Console(width=180).print(table)


def measured(name: str, pairs: list[str], data: Comparisons, count: int, seeds: range) -> list[str]:
    """A row of the table."""
    by_seed = [one_seed(name, pairs, data, count, seed) for seed in seeds]
    values = np.array([figures.values for figures in by_seed])
    cells = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(values.mean(0), values.std(0), strict=True)]
    fit, rate = (float(np.median(values[:, column])) for column in (-2, -1))
    sizes = (int(np.mean([getattr(figures, key) for figures in by_seed])) for key in ("fitted", "tested"))
    return [name, *(f"{size:,}" for size in sizes), *cells[:-2], f"{fit:.1f}", f"{rate:,.0f}"]


def one_seed(name: str, pairs: list[str], data: Comparisons, count: int, seed: int) -> Figures:
    """A fit on about `count` of the prompts, and its figures on the others."""
    chosen = method(name)
    options = parse_options(chosen.options, pairs)
    fitted, rest = data.split(count / len(data.prompts), seed)
    started = time.perf_counter()
    router = chosen.fit(fitted, seed=seed, options=options, settings=Settings(), progress=silent)
    between = time.perf_counter()
    labels = rest.labels()
    rates = router.win_rates(labels.prompts, *(data.pair or ROLES))
    per_second = len(labels) / (time.perf_counter() - between)
    gain = labels.gain
    values = (apgr_ten_bins(rates, gain), apgr(rates, gain), oracle(gain, apgr_ten_bins))
    errors = (calibration_error(rates, gain), brier(rates, gain))
    return Figures((*values, *errors, between - started, per_second), len(fitted.prompts), len(labels))


if __name__ == "__main__":
    main()
