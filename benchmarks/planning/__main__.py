"""What a plan's ranking buys on recorded answers, against the other ways to spend the same dollars.

    OMP_NUM_THREADS=1 python -m benchmarks.planning DIRECTORY [--splits 10] [--workloads NAME ...] [--power P] [--json]

DIRECTORY: see `benchmarks.planning.workloads`. Each split fits the gain router and the length models on one half of the
prompts and spends on the other; nothing of the other half is known before it is spent on. A budget is a share of the
span from all-weak to all-strong in true dollars: every policy ranks the prompts by what it knows before, and goes down
its ranking until the true costs reach the budget, as re-planning makes it.

Policies: `plan` (the service's own rule, on the router's gains and the predicted costs), `threshold` (by gain alone, as
RouteLLM), `cheapest-first` (where the predicted extra cost is least), `random`, `oracle` (true gain per true dollar);
"lengths unknown": the same before any answer is settled, all expected to take the configured prior.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks.planning.summary import GRID, SHARES, Curves, Vector, summary, tables
from benchmarks.planning.workloads import MODELS, Workload, workloads
from routing_service.planning import Damping, damping_of, steps
from routing_service.scoring.length_model import fit as fit_lengths
from routing_service.scoring.length_model import prompt_features
from routing_service.settings import ModelSettings
from training.data.labels import Labels
from training.fit.gain import fit_labels

PRIOR = ModelSettings.model_fields["expected_output_tokens"].default

Costs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Known:
    """What policies know of the prompts they spend on: gains (n,), nano-dollars by learned lengths and by the prior."""

    gain: Vector
    cost: Costs
    prior_cost: Costs


Ranking = Callable[[Known], Vector]  # what to rank by, highest first; -inf: never upgraded


def planned(gain: Vector, cost: Costs, power: float | None) -> Vector:
    """The service's own ranking of a pair; `power`: of the extra dollars, None: as it chooses for predicted costs."""
    damping = damping_of(cost)
    if power is not None:
        damping = Damping(power, damping.mean)
    quality = np.column_stack([np.full(len(gain), 0.5), 0.5 + gain / 2])
    return steps(cost, quality, damping)[:, 1]


def extra(cost: Costs) -> Vector:
    return (cost[:, 1] - cost[:, 0]).astype(np.float64)


def policies(power: float | None, draw: np.random.Generator) -> dict[str, Ranking]:
    return {
        "plan": lambda known: planned(known.gain, known.cost, power),
        "threshold": lambda known: known.gain,
        "cheapest-first": lambda known: -extra(known.cost),
        "random": lambda known: draw.random(len(known.gain)),
        "plan, lengths unknown": lambda known: planned(known.gain, known.prior_cost, 1.0),
        "cheapest-first, lengths unknown": lambda known: -extra(known.prior_cost),
    }


def curve(key: Vector, gain: Vector, dollars: Vector) -> Vector:
    """Points gained over all-weak at each share of the span in GRID, shape of GRID."""
    order = np.argsort(-key, kind="stable")
    order = order[key[order] > -np.inf]
    spent = np.concatenate([[0.0], np.cumsum(dollars[order])]) / dollars.sum()
    points = np.concatenate([[0.0], np.cumsum(gain[order])]) / len(gain) * 100
    curve: Vector = points[np.searchsorted(spent, GRID * (1 + 1e-12), side="right") - 1]
    return curve


def estimates(fitted: Workload, test: Workload, seed: int) -> Known:
    """Of the test prompts, by a router and length models that are fitted on the others."""
    n = len(fitted.prompts)
    router = fit_labels(Labels(fitted.prompts, fitted.gain, np.ones(n), ["golden"] * n), seed=seed)
    seen, unseen = prompt_features(fitted.prompts), prompt_features(test.prompts)
    learned = {m: fit_lengths(seen, fitted.output[m].tolist(), least=300).mean(unseen) for m in MODELS}
    prior = {m: np.full(len(test.prompts), float(PRIOR)) for m in MODELS}
    gain = router.gains(test.prompts)[0].astype(np.float64)
    return Known(gain, test.cost(learned), test.cost(prior))


def split(workload: Workload, seed: int, power: float | None) -> Curves:
    """What each policy gains by its spending, and the span's dollars a thousand requests."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(workload.prompts))
    fitted, test = workload.take(order[: len(order) // 2]), workload.take(order[len(order) // 2 :])
    known = estimates(fitted, test, seed)
    true = test.cost(test.output)
    points = {name: curve(rank(known), test.gain, extra(true)) for name, rank in policies(power, draw).items()}
    worth = np.where(test.gain > 0, test.gain / np.maximum(extra(true), 1), -np.inf)
    points["oracle"] = curve(worth, test.gain, extra(true))
    weak, strong = (float(column) / len(true) / 1e6 for column in true.sum(0))
    return Curves(points, weak, strong, float(test.gain.mean() * 100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--splits", type=int, default=10, help="at least 2")
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="some of them only")
    parser.add_argument("--power", type=float, help="of the extra dollars; default: as plans choose it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    recorded = workloads(options.directory)
    results = {}
    for name in options.workloads or recorded:
        curves = [split(recorded[name], seed, options.power) for seed in range(options.splits)]
        results[name] = summary(curves)
        sys.stderr.write(f"{name}: {options.splits} splits of {len(recorded[name].prompts):,} prompts\n")
        if not options.json:
            for table in tables(name, results[name]):
                Console(width=140).print(table)
    if options.json:
        print(json.dumps({"shares": SHARES, "workloads": results}))


if __name__ == "__main__":
    main()
