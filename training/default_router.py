"""The router that ships: fits `gain` on the MMLU and GSM8K outcome tables and writes the artifact.

    python -m training.default_router MMLU_TABLE GSM8K_TABLE --output routing_service/routers/default

Only these two: their licences (Apache-2.0, MIT) let what is fitted on them be shipped. The figures in the metadata are
of a router fitted on four fifths of the prompts and measured on the rest; what ships is fitted on all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from routing_service.routers.gain.router import GainRouter
from training.data.labels import Labels, split
from training.data.readers import load_comparisons
from training.evaluate.metrics import evaluate
from training.fit.gain import GainOptions, fit_labels

SEED = 0
OPTIONS = GainOptions(min_count=3)  # half the vocabulary of 2, and no worse
HELD_OUT = 0.2
PAIR = {"strong": "gpt-4-1106-preview", "weak": "mistralai/Mixtral-8x7B-Instruct-v0.1"}
LICENCES = {
    "mmlu": "RouteLLM's recorded 5-shot answers on MMLU; Apache-2.0, MIT",
    "gsm8k": "RouteLLM's recorded answers on GSM8K; Apache-2.0, MIT",
}


def fit_default(tables: dict[str, Labels], seed: int = SEED, options: GainOptions = OPTIONS) -> GainRouter:
    """The router of these tables, by name, with its figures on held-out prompts in the metadata."""
    parts = {name: split(labels, HELD_OUT, seed) for name, labels in tables.items()}
    trial = fit_labels(joined([kept for _, kept in parts.values()]), seed=seed, options=options)
    held_out = {}
    for name, (held, _) in parts.items():
        rates = trial.win_rates(held.prompts, PAIR["strong"], PAIR["weak"])
        held_out[name] = evaluate(rates, held.gain, seed=seed).as_dict()
    router = fit_labels(joined(list(tables.values())), seed=seed, options=options)
    router.metadata["metrics"]["held_out"] = held_out
    router.metadata["data"]["tables"] = {
        name: {"rows": len(labels), "licence": LICENCES.get(name, "unknown")} for name, labels in tables.items()
    }
    router.metadata["pair"] = PAIR
    return router


def joined(parts: list[Labels]) -> Labels:
    """The labels of all parts, in their order."""
    return Labels(
        [prompt for part in parts for prompt in part.prompts],
        np.concatenate([part.gain for part in parts]),
        np.concatenate([part.weight for part in parts]),
        [source for part in parts for source in part.source],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the router that ships.")
    parser.add_argument("mmlu", type=Path)
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments: Any = parser.parse_args()
    tables = {name: load_comparisons([getattr(arguments, name)]).comparisons.labels() for name in LICENCES}
    fit_default(tables).save(arguments.output)


if __name__ == "__main__":
    main()
