"""What routers that were fitted on some data are worth on an evaluation set of another kind.

    python -m benchmarks.learning.transfer --train mmlu.csv.gz gsm8k.csv.gz --benchmark mt-bench --data DIRECTORY
    python -m benchmarks.learning.transfer --train prompts.csv.gz battles.csv.gz --strong BIG --weak SMALL --data DIR

Prompts of the set are left out of the data. Every seed draws four fifths of the others to fit on: the deviation over
seeds says how much hangs on that draw; the interval, over resampled prompts of the set, how little they can tell.
Of a small set it is the wider one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cli.routers.method_options import parse_options
from routing_service.routers.registry import canonical
from routing_service.settings import Settings
from training.data.comparisons import ROLES, Comparisons
from training.data.decontamination import decontaminated
from training.data.readers import load_comparisons
from training.evaluate.benchmark_sets import BENCHMARKS, Benchmark, Floats, load_benchmark
from training.evaluate.metrics import apgr, apgr_ten_bins, bootstrap_interval, cpt, random_interval
from training.fit.methods import METHODS, method
from training.progress import silent

SHARE = 0.8
COLUMNS = ("method", "APGR, ten bins", "APGR, exact", "CPT 50 %", "of the mean win rate: APGR", "95 %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--strong", help="needed where rows name models")
    parser.add_argument("--weak")
    parser.add_argument("--benchmark", choices=BENCHMARKS, default="mt-bench")
    parser.add_argument("--data", type=Path, required=True, help="the directory with the set's tables")
    parser.add_argument("--methods", default="gain,similarity_weighted,matrix_factorization,ensemble")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="pairs", action="append", default=[], metavar="METHOD.KEY=VALUE")
    options = parser.parse_args()
    tested = load_benchmark(options.benchmark, options.data)
    loaded = load_comparisons(options.train, strong=options.strong, weak=options.weak).comparisons
    data, left_out = decontaminated(loaded, tested.prompts)
    low, high = random_interval(tested.gain)
    title = (
        f"{tested.name}, {len(tested):,} prompts; {left_out.same} left out of the fit; random {low:.3f} to {high:.3f}"
    )
    table = Table(*COLUMNS, title=title)
    for name in map(canonical, options.methods.split(",")):
        if name not in METHODS:
            parser.error(f"{name} is none of {', '.join(METHODS)}")
        pairs = [pair.partition(".")[2] for pair in options.pairs if canonical(pair.partition(".")[0]) == name]
        rates = [win_rates(name, pairs, data, tested, seed) for seed in range(options.seeds)]
        table.add_row(" ".join([name, *pairs]), *figures(rates, tested))
    Console(width=160).print(table)


def win_rates(name: str, pairs: list[str], data: Comparisons, tested: Benchmark, seed: int) -> Floats:
    """Of a router that is fitted on the prompts which the seed draws."""
    chosen = method(name)
    fitted, _ = data.split(SHARE, seed)
    router = chosen.fit(
        fitted, seed=seed, options=parse_options(chosen.options, pairs), settings=Settings(), progress=silent
    )
    return router.win_rates(tested.prompts, *(data.pair or ROLES)).astype(float)


def figures(rates: list[Floats], tested: Benchmark) -> list[str]:
    """Mean and deviation over seeds; and of the mean of all seeds' win rates, the interval over prompts."""
    gain = tested.gain
    cells = []
    for metric in (apgr_ten_bins, apgr, lambda scores, values: cpt(scores, values, 0.5)):
        values = [metric(rate, gain) for rate in rates]
        cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}")
    together: Floats = np.mean(rates, axis=0)
    low, high = bootstrap_interval(together, gain, draws=1000)
    return [*cells, f"{apgr(together, gain):.3f}", f"{low:.3f} to {high:.3f}"]


if __name__ == "__main__":
    main()
