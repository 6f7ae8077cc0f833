"""What a plan's ranking buys, on recorded answers: quality at fixed budgets, against the other ways to spend them.

    python -m benchmarks.planning DIRECTORY [--splits 10] [--power P] [--json]

DIRECTORY holds mmlu.csv.gz, gsm8k.csv.gz, alpaca_prompts.csv.gz, alpaca_battles.csv.gz and alpaca_responses.csv.gz.
Each split fits the gain router and the length models on one half of the prompts and spends on the other. A budget is a
share of the span between all-weak and all-strong, in true dollars: every policy ranks the prompts by what it knows
before, and goes down its ranking until the true costs reach the budget, as re-planning makes it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from routing_service.lengths import fit as fit_lengths
from routing_service.lengths import prompt_features
from routing_service.planning import damping_of
from training.data import Labels
from training.gain import fit_labels

Vector = npt.NDArray[np.float64]

SHARES = (0.10, 0.25, 0.50, 0.75)
PRICES = {"strong": (10.0, 30.0), "weak": (0.7, 0.7)}  # USD a million tokens: gpt-4-1106-preview, open-mixtral-8x7b
CHARACTERS_PER_TOKEN = 4
ALPACA = {"gpt-4-1106-preview": "strong", "mistralai/Mixtral-8x7B-Instruct-v0.1": "weak"}
BATTLES = {"gpt4_1106_preview", "Mixtral-8x7B-Instruct-v0.1"}


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts with what both models' answers were worth and how many tokens they had."""

    prompts: list[str]
    gain: Vector
    output: dict[str, Vector]

    def take(self, rows: npt.NDArray[np.intp]) -> Workload:
        output = {model: tokens[rows] for model, tokens in self.output.items()}
        return Workload([self.prompts[i] for i in rows.tolist()], self.gain[rows], output)

    def cost(self, output: dict[str, Vector], model: str) -> Vector:
        given, answered = PRICES[model]
        inputs = np.array([max(1, len(p) // CHARACTERS_PER_TOKEN) for p in self.prompts])
        cost: Vector = (inputs * given + output[model] * answered) / 1e6
        return cost

    def extra(self, output: dict[str, Vector]) -> Vector:
        return self.cost(output, "strong") - self.cost(output, "weak")


def read(file: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10_000_000)
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def tokens(text: str) -> float:
    return max(1.0, len(text) / CHARACTERS_PER_TOKEN)


def mmlu(directory: Path) -> Workload:
    rows = read(directory / "mmlu.csv.gz")
    gain = np.array([float(r["strong_correct"]) - float(r["weak_correct"]) for r in rows])
    return Workload([r["prompt"] for r in rows], gain, {m: np.ones(len(rows)) for m in PRICES})


def gsm8k(directory: Path) -> Workload:
    rows = read(directory / "gsm8k.csv.gz")
    gain = np.array([float(r["strong_correct"]) - float(r["weak_correct"]) for r in rows])
    output = {m: np.array([tokens(r[f"{m}_response"]) for r in rows]) for m in PRICES}
    return Workload([r["prompt"] for r in rows], gain, output)


def alpaca(directory: Path) -> Workload:
    texts = {r["prompt_id"]: r["prompt"] for r in read(directory / "alpaca_prompts.csv.gz")}
    answers = {
        (r["prompt_id"], ALPACA[r["model"]]): tokens(r["response"])
        for r in read(directory / "alpaca_responses.csv.gz")
        if r["model"] in ALPACA
    }
    gains = {}
    for r in read(directory / "alpaca_battles.csv.gz"):
        if {r["model_a"], r["model_b"]} == BATTLES:
            toward_b = 2 * float(r["preference_b"]) - 1
            gains[r["prompt_id"]] = toward_b if r["model_b"] == "gpt4_1106_preview" else -toward_b
    ids = sorted(i for i in gains if all((i, m) in answers for m in PRICES))
    output = {m: np.array([answers[i, m] for i in ids]) for m in PRICES}
    return Workload([texts[i] for i in ids], np.array([gains[i] for i in ids]), output)


def joined(*parts: Workload) -> Workload:
    return Workload(
        [p for part in parts for p in part.prompts],
        np.concatenate([part.gain for part in parts]),
        {m: np.concatenate([part.output[m] for part in parts]) for m in PRICES},
    )


def lognormal(workload: Workload) -> Workload:
    """The same prompts with lengths that nothing about them tells."""
    draw = np.random.default_rng(1)
    n = len(workload.prompts)
    return Workload(workload.prompts, workload.gain, {m: draw.lognormal(5, 0.8, n) for m in PRICES})


def workloads(directory: Path) -> dict[str, Workload]:
    m, g, a = mmlu(directory), gsm8k(directory), alpaca(directory)
    return {
        "mmlu": m,
        "gsm8k": g,
        "gsm8k + alpaca": joined(g, a),
        "mmlu + gsm8k": joined(m, g),
        "mmlu + gsm8k, log-normal lengths": lognormal(joined(m, g)),
    }


Ranking = Callable[[Vector, Vector, np.random.Generator], Vector]  # gain, extra dollars -> what to rank by


def plan(power: float | None) -> Ranking:
    def rank(gain: Vector, extra: Vector, draw: np.random.Generator) -> Vector:
        nano = np.column_stack([np.zeros(len(extra)), extra * 1e9]).astype(np.int64)
        p = damping_of(nano).power if power is None else power
        key: Vector = np.where(gain > 0, gain / np.maximum(extra, 1e-12) ** p, gain)
        return key

    return rank


def policies(power: float | None) -> dict[str, Ranking]:
    return {
        "plan": plan(power),
        "threshold": lambda gain, extra, draw: gain,
        "cheapest-first": lambda gain, extra, draw: -extra,
        "random": lambda gain, extra, draw: draw.random(len(gain)),
    }


def curve(key: Vector, gain: Vector, extra: Vector) -> tuple[Vector, Vector]:
    """Share of the span spent, and points gained, after each upgrade down the ranking."""
    order = np.argsort(-key, kind="stable")
    spent = np.concatenate([[0.0], np.cumsum(extra[order])]) / extra.sum()
    return spent, np.concatenate([[0.0], np.cumsum(gain[order])]) / len(gain) * 100


def at(found: tuple[Vector, Vector], share: float) -> float:
    return float(found[1][np.searchsorted(found[0], share, side="right") - 1])


def split(workload: Workload, seed: int, power: float | None) -> dict[str, dict[str, float]]:
    """Points over all-weak by policy and share, and what the plan spends for the threshold's quality."""
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(workload.prompts))
    fitted, test = workload.take(order[: len(order) // 2]), workload.take(order[len(order) // 2 :])
    n = len(fitted.prompts)
    router = fit_labels(Labels(fitted.prompts, fitted.gain, np.ones(n), ["golden"] * n), seed=seed)
    gain = router.gains(test.prompts)[0].astype(np.float64)
    lengths = {}
    for model in PRICES:
        few = n < 500
        rows = np.arange(max(n, 500)) % n if few else np.arange(n)
        length = fit_lengths(prompt_features([fitted.prompts[i] for i in rows]), fitted.output[model][rows].tolist())
        lengths[model] = length.mean(prompt_features(test.prompts))
    expected, true = test.extra(lengths), test.extra(test.output)
    curves = {name: curve(rank(gain, expected, draw), test.gain, true) for name, rank in policies(power).items()}
    curves["oracle"] = curve(np.where(test.gain > 0, 1 / true, test.gain), test.gain, true)
    found = {name: {str(s): at(c, s) for s in SHARES} for name, c in curves.items()}
    found["dollars for the threshold's quality"] = {
        str(s): float(curves["plan"][0][np.argmax(curves["plan"][1] >= at(curves["threshold"], s))]) / s for s in SHARES
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--power", type=float, help="of the extra dollars; default: as plans choose it")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {}
    for name, workload in workloads(arguments.directory).items():
        found = [split(workload, seed, arguments.power) for seed in range(arguments.splits)]
        results[name] = {
            policy: {s: [one[policy][s] for one in found] for s in found[0][policy]} for policy in found[0]
        }
        if not arguments.json:
            show(name, results[name])
    if arguments.json:
        print(json.dumps(results))


def show(name: str, result: dict[str, dict[str, list[float]]]) -> None:
    shares = [str(s) for s in SHARES]
    table = Table("points over all-weak", *(f"{float(s):.0%}" for s in shares), "mean", "plan - this", title=name)
    base = np.mean([result["plan"][s] for s in shares], axis=0)
    for policy, points in result.items():
        cells = [
            f"{np.mean(points[s]):.2f} ± {1.96 * np.std(points[s], ddof=1) / len(base) ** 0.5:.2f}" for s in shares
        ]
        mean = np.mean([points[s] for s in shares], axis=0)
        paired = base - mean
        interval = 1.96 * paired.std(ddof=1) / len(paired) ** 0.5
        table.add_row(
            policy,
            *cells,
            f"{mean.mean():.2f}",
            "" if "dollars" in policy else f"{paired.mean():+.2f} ± {interval:.2f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
