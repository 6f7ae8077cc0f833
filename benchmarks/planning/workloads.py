"""Recorded answers as workloads for plans: prompts, what either model's answer was worth, and what it costs.

DIRECTORY holds mmlu.csv.gz, gsm8k.csv.gz, alpaca_prompts.csv.gz, alpaca_battles.csv.gz and alpaca_responses.csv.gz.
Four characters are a token; an MMLU answer is one token; prices are those that ship (`genai-prices`).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from routing_service.money.pricing import MILLION, price_book
from routing_service.settings import ModelSettings, Settings

Vector = npt.NDArray[np.float64]

MODELS = ("weak", "strong")  # cheapest first
PRICED_AS = {"strong": "gpt-4-1106-preview", "weak": "open-mixtral-8x7b"}
CHARACTERS_PER_TOKEN = 4
ALPACA = {"gpt-4-1106-preview": "strong", "mistralai/Mixtral-8x7B-Instruct-v0.1": "weak"}
BATTLES = {"gpt4_1106_preview", "Mixtral-8x7B-Instruct-v0.1"}


@dataclass(frozen=True, slots=True)
class Workload:
    """n prompts; `gain`: quality of strong's answer minus weak's, in [-1, 1]; `output`: tokens of the answers, (n,)."""

    prompts: list[str]
    gain: Vector
    output: dict[str, Vector]

    def take(self, rows: npt.NDArray[np.intp]) -> Workload:
        output = {model: tokens[rows] for model, tokens in self.output.items()}
        return Workload([self.prompts[i] for i in rows.tolist()], self.gain[rows], output)

    def cost(self, output: Mapping[str, Vector]) -> npt.NDArray[np.int64]:
        """Nano-dollars if answers had these many tokens, shape (n, 2), the weak model first."""
        inputs = np.array([max(1, len(p) // CHARACTERS_PER_TOKEN) for p in self.prompts], np.float64)
        columns = [(inputs * prices()[m][0] + output[m] * prices()[m][1]) / MILLION for m in MODELS]
        return np.ceil(np.column_stack(columns)).astype(np.int64)


@cache
def prices() -> dict[str, tuple[int, int]]:
    """Nano-dollars a million tokens of input and of output, by model."""
    models = {m: ModelSettings(name=PRICED_AS[m], base_url="http://localhost/v1") for m in MODELS}
    book = price_book(Settings(models=models))
    return {m: (book.price(m, 1).input, book.price(m, 1).output) for m in MODELS}


def workloads(directory: Path) -> dict[str, Workload]:
    """By name; those with a + are mixed."""
    m, g, a = mmlu(directory), gsm8k(directory), alpaca(directory)
    return {
        "mmlu": m,
        "gsm8k": g,
        "gsm8k + alpaca": joined(g, a),
        "mmlu + gsm8k": joined(m, g),
        "mmlu + gsm8k, log-normal lengths": lognormal(joined(m, g)),
    }


def mmlu(directory: Path) -> Workload:
    rows = read(directory / "mmlu.csv.gz")
    return Workload([r["prompt"] for r in rows], correctness(rows), {m: np.ones(len(rows)) for m in MODELS})


def gsm8k(directory: Path) -> Workload:
    rows = read(directory / "gsm8k.csv.gz")
    output = {m: np.array([tokens(r[f"{m}_response"]) for r in rows]) for m in MODELS}
    return Workload([r["prompt"] for r in rows], correctness(rows), output)


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
    ids = sorted(i for i in gains if all((i, m) in answers for m in MODELS))
    output = {m: np.array([answers[i, m] for i in ids]) for m in MODELS}
    return Workload([texts[i] for i in ids], np.array([gains[i] for i in ids]), output)


def joined(*parts: Workload) -> Workload:
    return Workload(
        [p for part in parts for p in part.prompts],
        np.concatenate([part.gain for part in parts]),
        {m: np.concatenate([part.output[m] for part in parts]) for m in MODELS},
    )


def lognormal(workload: Workload) -> Workload:
    """The same prompts with lengths that nothing about them tells."""
    draw = np.random.default_rng(1)
    n = len(workload.prompts)
    return Workload(workload.prompts, workload.gain, {m: draw.lognormal(5, 0.8, n) for m in reversed(MODELS)})


def read(file: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10_000_000)
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def correctness(rows: list[dict[str, str]]) -> Vector:
    return np.array([float(r["strong_correct"]) - float(r["weak_correct"]) for r in rows])


def tokens(text: str) -> float:
    return max(1.0, len(text) / CHARACTERS_PER_TOKEN)
