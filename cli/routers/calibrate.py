"""`routebatch calibrate`: the thresholds that send wanted shares of the user's own prompts to the strong model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.inputs import format_option
from cli.options import json_option
from cli.output import print_json, print_table
from cli.routers.choice import Chosen, choose, router_option, router_pair_options
from cli.routers.prompts import chunks, opened_prompts

if TYPE_CHECKING:
    from training.evaluate.thresholds import Cut, WinRates


@click.command(
    epilog=epilog("routebatch calibrate --strong-share 0.3 --strong-share 0.5 --on prompts.csv --router mine")
)
@router_option
@click.option(
    "--strong-share",
    "shares",
    type=click.FloatRange(0, 1),
    multiple=True,
    required=True,
    help="Find the threshold for this share of prompts to the strong model. May be repeated.",
)
@click.option(
    "--on",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    required=True,
    metavar="FILE",
    help="Calibrate on these prompts: a file that `routebatch submit` takes, or that gzipped; - for stdin.",
)
@router_pair_options
@format_option
@json_option
def calibrate(
    wanted: str | None,
    shares: tuple[float, ...],
    file: str,
    strong: str | None,
    weak: str | None,
    form: str | None,
    as_json: bool,
) -> None:
    """Find the threshold for a wanted share of strong answers, on your own prompts.

    A prompt goes to the strong model where its win rate is at least the threshold, as in mode `threshold` and in the
    model name `router-NAME-THRESHOLD`. The share that is reached is the nearest one that is not above the wanted one:
    prompts of the same win rate go together.
    """
    chosen = choose(wanted, strong, weak)
    with opened_prompts(file, form) as ready:
        rates = _win_rates(chosen, chunks(ready, "scoring"))
    cuts = {share: rates.cut(share) for share in dict.fromkeys(shares)}
    if as_json:
        _print_json(chosen, rates, cuts)
    else:
        _print_table(cuts)


def _win_rates(chosen: Chosen, prompts: Iterator[list[str]]) -> WinRates:
    """Four bytes a prompt are kept, and the prompts of one chunk."""
    import numpy as np

    from training.evaluate.thresholds import WinRates

    rates = [chosen.router.win_rates(chunk, chosen.strong, chosen.weak) for chunk in prompts]
    if not rates:
        raise click.ClickException("there are no prompts to calibrate on: the file holds none")
    return WinRates(np.concatenate(rates))


def _print_json(chosen: Chosen, rates: WinRates, cuts: dict[float, tuple[Cut, Cut | None]]) -> None:
    thresholds = [
        {"strong_share": share, **_figures(first), "next": _figures(second) if second else None}
        for share, (first, second) in cuts.items()
    ]
    pair = {"strong": chosen.strong, "weak": chosen.weak}
    print_json({"router": chosen.router.name, **pair, "prompts": rates.prompts, "thresholds": thresholds})


def _figures(cut: Cut) -> dict[str, Any]:
    return {"threshold": cut.threshold, "share": cut.share, "prompts": cut.strong, "margin": cut.margin}


def _print_table(cuts: dict[float, tuple[Cut, Cut | None]]) -> None:
    columns = ["wanted share", "threshold", "to strong", "share", "of other prompts"]
    rows = [
        (f"{share:g}", _plain(cut.threshold), f"{cut.strong:,}", f"{cut.share:.4f}", f"± {cut.margin:.4f}")
        for share, (cut, _) in cuts.items()
    ]
    print_table(columns, rows, numeric=columns)
    for share, (cut, second) in cuts.items():
        if second is not None:
            click.echo(
                f"strong share {share:g} cannot be reached: {second.strong - cut.strong:,} prompts have one win rate. "
                f"The next threshold, {_plain(second.threshold)}, sends {second.share:.4f}",
                err=True,
            )
        elif cut.share > share:
            click.echo(f"strong share {share:g} cannot be reached: {cut.strong:,} prompts have win rate 1", err=True)


def _plain(threshold: float) -> str:
    """Without an exponent, which model names like `router-gain-0.5` could not hold."""
    return f"{threshold:.15f}".rstrip("0").rstrip(".")
