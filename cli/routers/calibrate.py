"""`routebatch calibrate`: the thresholds that send wanted shares of the user's own prompts to the strong model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.inputs import FORMATS
from cli.options import json_option
from cli.routers.scoring import Chosen, choose, chunks, opened_prompts, router_option, router_pair_options

if TYPE_CHECKING:
    from training.evaluate.thresholds import Cut, WinRates


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage.")
@router_option
@click.option(
    "--strong-share",
    "shares",
    type=click.FloatRange(0, 1),
    multiple=True,
    required=True,
    help="The share of prompts that is to go to the strong model; may be repeated.",
)
@click.option(
    "--on",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    required=True,
    help="The prompts: what `routebatch submit` takes, or that gzipped; - for stdin.",
)
@router_pair_options
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: found by the file's first line and name.")
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
    """Find the threshold that sends a wanted share of your own prompts to the strong model.

    A prompt goes to the strong model where its win rate is at least the threshold, as in mode `threshold` and in the
    model name `router-NAME-THRESHOLD`. The share that is reached is the nearest one that is not above the wanted one:
    prompts of the same win rate go together.
    """

    chosen = choose(wanted, strong, weak)
    with opened_prompts(file, form) as ready:
        rates = _win_rates(chosen, chunks(ready, "scoring"))
    found = {share: rates.cut(share) for share in dict.fromkeys(shares)}
    if as_json:
        _print_json(chosen, rates, found)
    else:
        _print_table(found)


def _win_rates(chosen: Chosen, prompts: Any) -> WinRates:
    """Four bytes a prompt are kept, and the prompts of one chunk."""
    import numpy as np

    from training.evaluate.thresholds import WinRates

    found = [chosen.router.win_rates(chunk, chosen.strong, chosen.weak) for chunk in prompts]
    if not found:
        raise click.ClickException("there are no prompts to calibrate on")
    return WinRates(np.concatenate(found))


def _print_json(chosen: Chosen, rates: WinRates, found: dict[float, tuple[Cut, Cut | None]]) -> None:
    from cli.output import print_json

    thresholds = [
        {"strong_share": share, **_figures(first), "next": _figures(second) if second else None}
        for share, (first, second) in found.items()
    ]
    pair = {"strong": chosen.strong, "weak": chosen.weak}
    print_json({"router": chosen.router.name, **pair, "prompts": rates.prompts, "thresholds": thresholds})


def _figures(cut: Cut) -> dict[str, Any]:
    return {"threshold": cut.threshold, "share": cut.share, "prompts": cut.strong, "margin": cut.margin}


def _print_table(found: dict[float, tuple[Cut, Cut | None]]) -> None:
    from cli.output import print_table

    columns = ["wanted share", "threshold", "to strong", "share", "of other prompts"]
    rows = [
        (f"{share:g}", _plain(cut.threshold), f"{cut.strong:,}", f"{cut.share:.4f}", f"± {cut.margin:.4f}")
        for share, (cut, _) in found.items()
    ]
    print_table(columns, rows, numeric=columns)
    for share, (cut, second) in found.items():
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
