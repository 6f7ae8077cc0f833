"""What fitting costs: seconds and peak memory by the number of comparisons, every fit in a process of its own.

`python -m benchmarks.learning.training_cost --data mmlu.csv.gz [--methods gain,bert] [--comparisons 1000 10000 100000]`

Comparisons are made as `benchmarks.routers.growth` makes them. Methods that fine-tune a transformer are not run to
their end: two short fits tell what a step and what everything else costs, the rest is arithmetic, and their rows are
marked with ~. Of `causal_llm` that is LoRA's fit; its label rows alone cost a pass a prompt, which is measured on two
numbers of prompts.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.routers.growth import MIB, in_child

PLAIN = "gain,similarity_weighted,matrix_factorization,ensemble"
STEPS = (2, 6)  # of the short fits
PASSES = (40, 120)  # prompts of the short fits of label rows
SHORT = 120  # comparisons of the short fits
# method: examples a step, epochs, the most steps there are (its defaults)
TUNED = {"bert": (16, 4, 2000), "causal_llm": (8, 3, 2000)}
QUIET = {  # one evaluation, nothing held out: the steps alone
    "bert": ["evaluations=1", "held_out_share=0"],
    "causal_llm": ["adapter=lora", "evaluations=1", "validation_share=0"],
}
HEAD = ["adapter=head", "validation_share=0"]
Cells = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--methods", default=f"{PLAIN},bert,causal_llm")
    parser.add_argument("--comparisons", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--encoder", default="static")
    options = parser.parse_args()
    table = Table("method", "comparisons", "wall s", "CPU s", "peak MiB", "note")
    for name in options.methods.split(","):
        rows = tuned(options, name) if name in TUNED else plain(options, name)
        for row in rows:
            table.add_row(*row)
    Console(width=140).print(table)


def plain(options: Any, name: str) -> Iterator[Cells]:
    """A row for every number of comparisons, measured."""
    for count in options.comparisons:
        fit = _fit(options, name, [], count)
        yield (name, f"{count:,}", f"{fit['seconds']:.1f}", f"{fit['cpu']:.1f}", _mib(fit["peak"]), "")


def tuned(options: Any, name: str) -> Iterator[Cells]:
    """Rows by arithmetic, from two short fits."""
    if name == "causal_llm":
        few, many = (_fit(options, name, HEAD, count) for count in PASSES)
        yield from _extrapolated(options, f"{name}, head", few, many, PASSES, lambda count: count, "a prompt")
    minibatch, epochs, most = TUNED[name]
    few, many = (_fit(options, name, [*QUIET[name], f"max_steps={steps}"], SHORT) for steps in STEPS)
    steps_of = {count: min(most, math.ceil(epochs * math.ceil(count / minibatch))) for count in options.comparisons}
    yield from _extrapolated(options, name, few, many, STEPS, steps_of.__getitem__, f"a step of {minibatch}")


def _extrapolated(
    options: Any, name: str, few: dict[str, float], many: dict[str, float], sizes: tuple[int, int], units: Any, of: str
) -> Iterator[Cells]:
    each = {key: (many[key] - few[key]) / (sizes[1] - sizes[0]) for key in ("seconds", "cpu")}
    for count in options.comparisons:
        number = units(count)
        wall, cpu = (few[key] + each[key] * (number - sizes[0]) for key in ("seconds", "cpu"))
        note = f"{number:,} x {each['cpu']:.2f} CPU s {of}"
        yield (name, f"{count:,}", f"~{wall:,.0f}", f"~{cpu:,.0f}", f"~{_mib(many['peak'])}", note)


def _fit(options: Any, name: str, pairs: list[str], comparisons: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory:
        return in_child(options, work="fit", name=name, pairs=pairs, comparisons=comparisons, directory=directory)


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f}"


if __name__ == "__main__":
    main()
