"""How fast the causal_llm router scores with SmolLM2-135M, against the plain ways to ask the same model the same.

`python -m benchmarks.routers.causal_llm --data gsm8k.csv.gz [--prompts 16] [--repeats 5] [--threads 1]`

Against one forward pass a prompt, and against generation as RouteLLM 0.2.0 does it: greedy, six tokens with their
scores, one prompt a call. Its checkpoint writes the assistant's header before the label and an end after it, six tokens
in all, so no end stops it earlier here. It loads the model with `use_cache=False`; whether generation obeys that
depends on the version of transformers (5.23 does not), so both are timed. Time is the processor's, of all threads;
all sides take turns on the same tokens, tokenising apart, which costs ours and theirs alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from benchmarks.peers.timing import Row, as_table
from routing_service.routers.transformers.causal_llm import CausalLLMRouter
from routing_service.routers.transformers.causal_prompts import FORMS, ask
from training.data.readers import load_comparisons
from training.fit.causal_base import load_base, plain_tokens, taken_apart

GENERATED = 6  # tokens

Rates = npt.NDArray[np.float64]
Way = Callable[[list[str]], Rates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prompts: files as `train` takes them")
    parser.add_argument("--form", choices=FORMS, default="pairwise")
    parser.add_argument("--prompts", type=int, default=64, help="of which the peers get --peer-prompts")
    parser.add_argument("--peer-prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    every = load_comparisons(options.data).comparisons.prompts
    prompts = [every[i] for i in np.random.default_rng(0).permutation(len(every))[: options.prompts].tolist()]
    few = prompts[: options.peer_prompts]
    ways, router = make_ways(options.form)
    lengths = [len(row) for row in router.prompts.rows(prompts)]
    rates, scores = timed(ways, prompts, few, options.repeats)
    exact = scores["one forward pass"]
    rows = []
    for ours in ("float32", "int8"):
        off = np.abs(scores[ours][: len(few)] - exact).max()
        for against, least, aim in (("one forward pass", 3, 5), ("generation", 20, 40), ("generation, cached", 0, 0)):
            note = f"win rates differ by {off:.1e}" if against == "one forward pass" else ""
            note = "as transformers 5.23 runs it" if against == "generation, cached" else note
            rows.append(Row(f"causal_llm, {ours}", against, least, aim, rates[ours], rates[against], note))
    console = Console(width=200)
    console.print(as_table(rows))
    shared = len(router.prompts.prefix)
    console.print(f"{np.mean(lengths):.0f} tokens a prompt on average, {shared} of them instructions that all share")


def make_ways(form_name: str) -> tuple[dict[str, Way], CausalLLMRouter]:
    """The ways to score, all with the same weights and question."""
    form = FORMS[form_name]
    model, tokenizer = load_base("smollm2")
    labels = plain_tokens(tokenizer, form.plain)
    judge, question = taken_apart(model, tokenizer, labels), ask(form, tokenizer)
    ours = CausalLLMRouter(judge, question, precision="float")
    integers = CausalLLMRouter(judge, question, precision="int8")
    wins = np.array(form.wins)
    pair = [("strong", "weak")]

    def of(logits: torch.Tensor) -> float:
        return float(logits[labels].double().softmax(-1).numpy() @ wins)

    def one_pass(prompts: list[str]) -> Rates:
        rows = ours.prompts.rows(prompts)
        return np.array([of(model(input_ids=torch.tensor([row])).logits[0, -1]) for row in rows])

    def generate(prompts: list[str], *, cached: bool) -> Rates:
        options: dict[str, Any] = {"do_sample": False, "pad_token_id": 2, "use_cache": cached}
        options |= {"output_scores": True, "return_dict_in_generate": True}
        rates = []
        for row in ours.prompts.rows(prompts):
            ids = torch.tensor([row])
            out = model.generate(ids, max_new_tokens=GENERATED, min_new_tokens=GENERATED, **options)
            rates.append(of(out.scores[0][0]))
        return np.array(rates)

    ways: dict[str, Way] = {
        "float32": lambda prompts: ours.raw_win_rates(prompts, pair)[:, 0],
        "int8": lambda prompts: integers.raw_win_rates(prompts, pair)[:, 0],
        "one forward pass": one_pass,
        "generation": lambda prompts: generate(prompts, cached=False),
        "generation, cached": lambda prompts: generate(prompts, cached=True),
    }
    return ways, ours


def timed(
    ways: dict[str, Way], prompts: list[str], few: list[str], repeats: int
) -> tuple[dict[str, list[float]], dict[str, Rates]]:
    """Prompts a second of every way, by run, the ways taking turns; and the win rates. The first run is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, Rates] = {}
    with torch.inference_mode():
        for repeat in range(-1, repeats):
            for name, way in ways.items():
                given = prompts if name in ("float32", "int8") else few
                started = time.process_time()
                scores[name] = way(given if repeat >= 0 else given[:4])
                if repeat >= 0:
                    rates[name].append(len(given) / (time.process_time() - started))
    return rates, scores


if __name__ == "__main__":
    main()
