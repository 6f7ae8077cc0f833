"""`routebatch similarity`: how alike two sets of prompts are (benchmark-dataset similarity)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.epilog import epilog
from cli.options import json_option
from cli.output import print_json, print_table
from cli.progress import progress_bars
from cli.routers.decontamination import data_option
from cli.routers.prompts import prompts_of
from cli.stack_access import read_settings

QUANTILES = (0.05, 0.5, 0.95)


@click.command(epilog=epilog("routebatch similarity mmlu outcomes.csv --data sets"))
@click.argument("prompts", metavar="A", help="A file of prompts or an evaluation set.")
@click.argument("others", metavar="B", help="The prompts to compare it with: a file or an evaluation set.")
@click.option("--encoder", metavar="NAME", help="Compare prompts by this encoder. Default: the configured one.")
@data_option
@json_option
def similarity(prompts: str, others: str, encoder: str | None, data: Path | None, as_json: bool) -> None:
    """Measure how similar two sets of prompts are.

    The figure is the mean, over the prompts of A, of the cosine to the nearest one of B. A and B are files that
    `submit` or `train` takes, or evaluation sets (mmlu, gsm8k, mt-bench) with --data. With A an evaluation set and B
    training data, it tells whether a router that was fitted on B knows the like of A.
    """
    from routing_service.embedding.registry import make_encoder
    from training.data.decontamination import similarity as measure

    settings = read_settings()
    first, second = prompts_of(prompts, data), prompts_of(others, data)
    with progress_bars() as bars:
        made = make_encoder(settings, encoder)
        measured = measure(first, second, made, bars)
    values = _values(measured.nearest)
    result = {"a": prompts, "b": others, "prompts_a": len(first), "prompts_b": len(second), "encoder": made.spec}
    if as_json:
        print_json({**result, "similarity": measured.mean, **values, "published": _published(prompts)})
        return
    _print(result, measured.mean, values)


def _values(nearest: Any) -> dict[str, float]:
    """How the cosines to the nearest prompt are spread."""
    import numpy as np

    low, middle, high = np.quantile(nearest, QUANTILES).tolist()
    return {"quantile_05": low, "median": middle, "quantile_95": high, "share_same": float(np.mean(nearest >= 0.999))}


def _published(name: str) -> dict[str, float] | None:
    """What the paper has for that evaluation set, by the embeddings of an OpenAI model."""
    from training.evaluate.published import SIMILARITY

    if name not in SIMILARITY:
        return None
    return dict(zip(("arena", "arena_and_more"), SIMILARITY[name], strict=True))


def _print(result: dict[str, Any], mean: float, values: dict[str, float]) -> None:
    rows = [
        ("prompts of A", f"{result['prompts_a']:,} ({result['a']})"),
        ("prompts of B", f"{result['prompts_b']:,} ({result['b']})"),
        ("encoder", result["encoder"]),
        ("similarity", f"{mean:.4f}"),
        ("5 %, median, 95 %", ", ".join(f"{values[key]:.3f}" for key in ("quantile_05", "median", "quantile_95"))),
        ("A's prompts that B has", f"{100 * values['share_same']:.1f} %"),
    ]
    if paper := _published(result["a"]):
        rows.append(("published, its own data and encoder", " to ".join(f"{value:.4f}" for value in paper.values())))
    print_table(["", "of A to B"], rows)
