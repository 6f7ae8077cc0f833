"""The evaluation sets by name: `load_benchmark("mmlu", directory)`. A new one is a function and a line in SETS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.benchmark import Benchmark
from training.benchmark_tables import PAPER_PAIR, Prices, found_tables, gsm8k, mmlu, mt_bench
from training.comparisons import Comparisons, Pair
from training.readers import load_comparisons
from training.tables import DataError

PAPER_PRICES: Prices = (24.7, 0.24)  # dollars a million tokens of strong and weak, as the paper estimates them
COMPARISONS = "comparisons"
COMPARISON_TABLES = ("comparisons.jsonl", "comparisons.csv")
SETS = {"mmlu": mmlu, "gsm8k": gsm8k, "mt-bench": mt_bench}
BENCHMARKS = (*SETS, COMPARISONS)

__all__ = ["BENCHMARKS", "PAPER_PAIR", "PAPER_PRICES", "Benchmark", "from_comparisons", "load_benchmark"]


def load_benchmark(
    name: str, data: Path, *, pair: Pair | None = None, usd_per_million: Prices = PAPER_PRICES
) -> Benchmark:
    """The evaluation set of that name, one of BENCHMARKS.

    `data` is the directory with its tables (`training.benchmark_tables` says which); for `comparisons` also a file.
    `pair` names strong and weak where tables name models; None: the paper's two, of comparisons strong and weak.
    `usd_per_million`: their prices, for the costs of recorded answers. DataError: no such set or tables, a bad row.
    """
    if name == COMPARISONS:
        strong, weak = pair or (None, None)
        paths = found_tables(data, name, COMPARISON_TABLES) if data.is_dir() else [data]
        loaded = load_comparisons(paths, strong=strong, weak=weak)
        if loaded.bad:
            raise DataError(f"{loaded.bad[0]} ({loaded.counted['bad']} bad rows)")
        return from_comparisons(loaded.comparisons)
    if name not in SETS:
        raise DataError(f"there is no evaluation set {name[:80]!r}. Sets: {', '.join(BENCHMARKS)}")
    return SETS[name](data, pair or PAPER_PAIR, usd_per_million)


def from_comparisons(comparisons: Comparisons, name: str = COMPARISONS) -> Benchmark:
    """The comparisons of the pair as an evaluation set. A model's quality is how often its answer is preferred, ties as
    half; a prompt that was compared several times counts once, by the weighted mean. DataError where there are none."""
    comparisons.labels()  # refuses what has no pair or no rows of it, and says what to do
    assert comparisons.pair is not None
    rows, outcome = comparisons.of_pair()
    prompts, place = np.unique(comparisons.prompt[rows], return_inverse=True)
    weight = comparisons.weight[rows]
    preferred = np.bincount(place, outcome * weight) / np.bincount(place, weight)
    return Benchmark(name, [comparisons.prompts[i] for i in prompts], preferred, 1 - preferred, comparisons.pair)
