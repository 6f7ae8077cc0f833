"""`routebatch score`: score a file of prompts with a router, on this machine, without services or a database."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from cli.epilog import epilog
from cli.inputs import STDIN, Prepared, format_option
from cli.options import WRITABLE
from cli.output_files import STDOUT, check_paths, writing
from cli.routers.choice import Chosen, choose, router_option, router_pair_options
from cli.routers.prompts import chunks, opened_prompts

FILE = "A file that `routebatch submit` takes, or that gzipped; - for stdin."
COLUMNS = ("win_rate", "expected_gain", "std")


@click.command(epilog=epilog("routebatch score prompts.csv --router mine --output scores.csv"))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help=FILE)
@router_option
@router_pair_options
@format_option
@click.option(
    "--output", "-o", type=WRITABLE, default="-", show_default="stdout", help="Write the scores to this file."
)
def score(file: str, wanted: str | None, strong: str | None, weak: str | None, form: str | None, output: Path) -> None:
    """Score a file of prompts with a router.

    FILE is what `routebatch submit` takes, or that gzipped. A CSV is written with a row for each prompt, in the file's
    order. Its columns: win_rate, the probability that the strong model's answer is preferred, ties as half;
    expected_gain, its expected quality minus the weak model's, in [-1, 1]; std, the standard deviation of that. A file
    with a bad line is refused, and the line is named.
    """
    check_paths(output, None, None if file == STDIN else file)
    chosen = choose(wanted, strong, weak)
    with opened_prompts(file, form) as ready, writing(output) as stream:
        count = _score(chosen, ready, stream)
    if output != STDOUT:
        click.echo(f"scored {count:,} prompts with {chosen.router.name}: wrote {output}", err=True)


def _score(chosen: Chosen, ready: Prepared, stream: BinaryIO) -> int:
    """Write the scores of all prompts, chunk by chunk, and return how many there are."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for chunk in chunks(ready, "scoring"):
        writer.writerows(_rows(chosen, chunk))
        count += len(chunk)
    text.detach()
    return count


def _rows(chosen: Chosen, prompts: list[str]) -> Iterator[tuple[str, ...]]:
    quality, std = chosen.router.score(prompts, [chosen.weak, chosen.strong])
    # Relative to the weak model, strong's quality is its win rate: a scale half as wide as that of gains.
    for win_rate, deviation in zip(quality[:, 1], std[:, 1], strict=True):
        yield f"{win_rate:.6f}", f"{2 * win_rate - 1:.6f}", f"{2 * deviation:.6f}"
