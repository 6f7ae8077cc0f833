"""How fast the routers are against their peers: both sides take turns, on the same prompts, data and weights.

`python -m benchmarks.routers --data mmlu.csv.gz --environment DIRECTORY [--rows gain similarity_weighted ...]`

The peer of similarity_weighted, matrix_factorization and bert is RouteLLM 0.2.0 from PyPI in `--environment`, which
`benchmarks.peers.environment` makes if it is not there; what is stubbed of it, `benchmarks.peers.routellm` says. That
of gain is one call of MiniLM a prompt, which any router on embeddings has to pay. `benchmarks.routers.embedding` and
`benchmarks.routers.causal_llm` time the encoder and the causal LLM.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.peers.data import (
    STRONG,
    WEAK,
    Arena,
    TableEncoder,
    make_arena,
    write_arena,
    write_classifier,
    write_factors,
)
from benchmarks.peers.environment import Peer, make_environment, running_peer
from benchmarks.peers.timing import Row, as_table, take_turns
from benchmarks.routers.embedding import minilm, minilm_call
from routing_service.routers.gain.router import GainRouter
from routing_service.routers.registry import DEFAULT_ARTIFACT, Router
from routing_service.settings import Settings
from training.data.readers import load_comparisons

ROWS = ("gain", "similarity_weighted", "matrix_factorization", "bert")
GAIN_PROMPTS = 8192  # a run
MINILM_PROMPTS = 64
SW_PROMPTS, SW_PEER_PROMPTS = 512, 4
MF_PROMPTS, MF_PEER_PROMPTS = 8192, 1024
BERT_PROMPTS, BERT_PEER_PROMPTS = 64, 16
BERT_CHARACTERS = 1500  # both read all of such a prompt; of longer ones we read the tail, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prompts: files as `train` takes them")
    parser.add_argument("--environment", type=Path, help="RouteLLM's; needed for all rows but gain")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--comparisons", type=int, default=55_000)
    parser.add_argument("--dimensions", type=int, default=1536, help="of the vectors; RouteLLM's have 1,536")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.environment is None and set(options.rows) != {"gain"}:
        parser.error("--environment DIRECTORY is needed: RouteLLM is installed there")
    prompts = load_comparisons(options.data).comparisons.prompts
    rows = []
    if "gain" in options.rows:
        rows.append(gain_row(prompts, options.repeats))
    if set(options.rows) & {"similarity_weighted", "matrix_factorization"}:
        rows += vector_rows(options.environment, options.rows, options.comparisons, options.dimensions, options.repeats)
    if "bert" in options.rows:
        rows += bert_rows(options.environment, prompts, options.repeats)
    console = Console(width=200)
    console.print(as_table(rows))
    console.print(", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "transformers", "onnxruntime")))


def gain_row(prompts: list[str], repeats: int) -> Row:
    """Text to gain by the router that ships on one core, against MiniLM on all of them.

    Both in processor time, which other processes hardly change: MiniLM's is spread evenly over its threads.
    """
    import torch

    router = GainRouter.load(DEFAULT_ARTIFACT)
    many = list(islice(cycle(prompts), GAIN_PROMPTS))
    one_by_one = cycle(prompts)
    call = minilm_call()

    def ours() -> tuple[int, float]:
        return len(many), seconds(partial(router.gains, many), time.process_time)

    def theirs() -> tuple[int, float]:
        few = list(islice(one_by_one, MINILM_PROMPTS))
        taken = seconds(lambda: [call(prompt) for prompt in few], time.process_time)
        return len(few), taken / torch.get_num_threads()

    rates = take_turns(ours, theirs, repeats)
    return Row("gain, text to gain, one core", "one MiniLM call a prompt, all cores", 150, 300, *rates)


def vector_rows(environment: Path, names: list[str], comparisons: int, dimensions: int, repeats: int) -> list[Row]:
    """The routers on vectors, which are given: scoring only."""
    make_environment(environment.resolve())
    arena = make_arena(comparisons, MF_PROMPTS, dimensions)
    rows = []
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as name:
        data = Path(name)
        write_arena(arena, data)
        factors = write_factors(data, dimensions)
        with running_peer(environment.resolve(), data) as peer:
            if "similarity_weighted" in names:
                rows.append(similarity_row(peer, arena, repeats))
            if "matrix_factorization" in names:
                rows.append(factors_row(peer, arena, factors, repeats))
    return rows


def similarity_row(peer: Peer, arena: Arena, repeats: int) -> Row:
    from routing_service.routers.bradley_terry.similarity_weighted import SimilarityWeightedRouter
    from training.fit.similarity_weighted import remember
    from training.fit.tiers import rate

    rated = rate(arena.comparisons)
    memory = remember(arena.comparisons, arena.prompt_vectors.astype(np.float16), rated, None)
    encoder = TableEncoder(arena.queries, arena.query_vectors)
    router = SimilarityWeightedRouter(memory, rated, encoder, Settings())
    rates, note = against_peer(peer, "sw_ranking", router, arena.queries, (SW_PROMPTS, SW_PEER_PROMPTS), repeats)
    name = f"similarity_weighted, {len(arena.comparisons):,} comparisons"
    return Row(name, "RouteLLM's calculate_strong_win_rate", 250, 1000, *rates, note)


def factors_row(peer: Peer, arena: Arena, factors: Path, repeats: int) -> Row:
    from training.importers.matrix_factorization import import_matrix_factorization

    encoder = TableEncoder(arena.queries, arena.query_vectors)
    router = import_matrix_factorization(factors, Settings(), encoder)
    rates, note = against_peer(peer, "mf", router, arena.queries, (MF_PROMPTS, MF_PEER_PROMPTS), repeats)
    return Row("matrix_factorization", "RouteLLM's MFModel.pred_win_rate", 40, 500, *rates, note)


def bert_rows(environment: Path, prompts: list[str], repeats: int) -> list[Row]:
    """The same weights in the peer's BERTRouter and, in 8-bit integers and in float32, in ours."""
    from routing_service.routers.transformers.bert import BertRouter
    from training.importers.bert import import_bert

    make_environment(environment.resolve())
    short = [prompt for prompt in prompts if len(prompt) <= BERT_CHARACTERS][:BERT_PROMPTS]
    rows = []
    with tempfile.TemporaryDirectory(prefix="rb-bench-") as name:
        data = Path(name)
        imported = import_bert(write_classifier(data, minilm()), Settings())
        with running_peer(environment.resolve(), data) as peer:
            in_integers = replace(imported.figures, precision="int8")
            in_floats = replace(imported.figures, precision="float")
            for figures, least, aim in ((in_integers, 2, 3), (in_floats, 1, 1)):
                router = BertRouter(imported.classifier, figures, settings=Settings())
                rates, note = against_peer(peer, "bert", router, short, (len(short), BERT_PEER_PROMPTS), repeats)
                rows.append(Row(f"bert, {figures.precision}", "RouteLLM's BERTRouter", least, aim, *rates, note))
    return rows


def against_peer(
    peer: Peer, name: str, router: Router, prompts: list[str], sizes: tuple[int, int], repeats: int
) -> tuple[tuple[list[float], list[float]], str]:
    """Rates of both sides, and the largest difference of their win rates. `sizes`: prompts of our and of their runs."""
    peer.load(name)
    many, asked = prompts[: sizes[0]], cycle(prompts[: sizes[0]])
    win_rates = dict(zip(many, router.win_rates(many, STRONG, WEAK).tolist(), strict=True))
    differences: list[float] = []

    def ours() -> tuple[int, float]:
        return len(many), seconds(partial(router.win_rates, many, STRONG, WEAK))

    def theirs() -> tuple[int, float]:
        few = list(islice(asked, sizes[1]))
        answer = peer.ask(name, few)
        differences.extend(abs(win_rates[p] - rate) for p, rate in zip(few, answer.win_rates, strict=True))
        return len(few), answer.seconds

    rates = take_turns(ours, theirs, repeats)
    return rates, f"largest difference of {len(differences):,} win rates: {max(differences):.1e}"


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


if __name__ == "__main__":
    main()
