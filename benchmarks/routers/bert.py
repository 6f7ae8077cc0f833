"""How fast the bert router scores, against one float32 call a prompt, and what 8-bit integers cost a fitted one.

`python -m benchmarks.routers.bert --data mmlu.csv.gz [--prompts 48] [--repeats 5] [--router DIRECTORY]`

Speed: a model of XLM-RoBERTa-base's size with random weights and MiniLM's tokenizer, the same on both sides; the peer
tokenises and calls it as RouteLLM 0.2.0's BERTRouter does (`benchmarks.routers` runs RouteLLM itself). Both sides take
turns. `--router`: APGR of a fitted artifact in both precisions, on data that its fit has not seen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers.data import write_classifier
from benchmarks.peers.timing import Row, as_table, take_turns
from routing_service.embedding.model_files import find_model
from routing_service.routers.transformers.bert import BertRouter
from routing_service.routers.transformers.bert_forward import Precision
from routing_service.settings import Settings
from training.data.comparisons import Comparisons
from training.data.readers import load_comparisons
from training.evaluate.metrics import apgr, apgr_ten_bins
from training.importers.bert import import_bert

LEAST, AIM = 2, 3
PRECISIONS: tuple[Precision, ...] = ("int8", "float")
CLOCKS = {"wall clock": time.perf_counter, "processor time": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prompts: files as `train` takes them")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--router", type=Path, help="an artifact of bert, to compare its precisions on the data")
    options = parser.parse_args()
    data = load_comparisons(options.data).comparisons
    drawn = np.random.default_rng(0).permutation(len(data.prompts))[: options.prompts].tolist()
    console = Console(width=200)
    if options.router:
        console.print(cost(BertRouter.load(options.router), data))
    else:
        console.print(as_table(rows([data.prompts[row] for row in drawn], options.repeats)))


def rows(prompts: list[str], repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as directory:
        path = write_classifier(Path(directory), find_model("minilm").directory)
        imported = import_bert(path, Settings())
        theirs = bert_router(path)
    exact = np.array([theirs(prompt) for prompt in prompts])
    measured = []
    for precision in PRECISIONS:
        router = in_precision(imported, precision)
        off = np.abs(router.win_rates(prompts, "strong", "weak") - exact).max()
        for name, clock in CLOCKS.items():
            ours = timed(partial(router.win_rates, strong="strong", weak="weak"), prompts, clock)
            # The same prompts: seconds go by their lengths.
            rates = take_turns(ours, timed(lambda texts: [theirs(text) for text in texts], prompts, clock), repeats)
            wanted = (LEAST, AIM) if precision == "int8" else (1, 1)
            note = f"win rates differ by at most {off:.1e}"
            measured.append(Row(f"bert, {precision}, {name}", f"one call a prompt, {name}", *wanted, *rates, note))
    return measured


def bert_router(path: Path) -> Callable[[str], float]:
    """`calculate_strong_win_rate` of RouteLLM's BERTRouter."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=3)
    tokenizer: Any = AutoTokenizer.from_pretrained(path)

    def win_rate(prompt: str) -> float:
        inputs = tokenizer(prompt, return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            logits = model(**inputs).logits.numpy()[0]
        exp_scores = np.exp(logits - np.max(logits))
        return float(1 - np.sum((exp_scores / np.sum(exp_scores))[-2:]))

    return win_rate


def in_precision(router: BertRouter, precision: Precision) -> BertRouter:
    figures = replace(router.figures, precision=precision)
    return BertRouter(router.classifier, figures, settings=Settings(), calibration=router.calibration)


def timed(
    work: Callable[[list[str]], object], prompts: list[str], clock: Callable[[], float]
) -> Callable[[], tuple[int, float]]:
    def run() -> tuple[int, float]:
        started = clock()
        work(prompts)
        return len(prompts), clock() - started

    return run


def cost(router: BertRouter, data: Comparisons) -> Table:
    labels = data.labels()
    table = Table("precision", "prompts", "APGR, ten bins", "APGR, exact", "largest difference of win rates")
    exact = in_precision(router, "float").win_rates(labels.prompts, "strong", "weak")
    for precision in PRECISIONS:
        rates = exact if precision == "float" else in_precision(router, precision).win_rates(
            labels.prompts, "strong", "weak"
        )  # fmt: skip
        figures = f"{apgr_ten_bins(rates, labels.gain):.4f}", f"{apgr(rates, labels.gain):.4f}"
        table.add_row(precision, f"{len(labels):,}", *figures, f"{np.abs(rates - exact).max():.4f}")
    return table


if __name__ == "__main__":
    main()
