"""`routebatch grade`: how good a batch's answers are by gold answers, and comparisons of its pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option
from cli.stack_access import database_options, find_settings
from cli.stack_access import reading as transaction

if TYPE_CHECKING:
    from training.evaluate.intervals import Mean
    from training.label.golden import Graded


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage.")
@click.argument("batch", metavar="BATCH")
@click.option(
    "--gold",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="CSV or JSON lines: custom_id (or id) and gold (or answer).",
)
@click.option(
    "--grader",
    "name",
    default="exact",
    show_default=True,
    help="exact, numeric, multiple_choice, json_field, your own.",
)
@click.option("--field", metavar="PATH", help="What json_field reads: total.amount, items.0.name.")
@json_option
@database_options
def grade(batch: str, gold: Path, name: str, field: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Grade the answers of a batch by gold answers: mean quality by model and of the whole batch.

    Requests that both models have answered (paired sampling) become golden comparisons, which routers are trained on;
    grading again replaces them. Graders of your own stand in the configuration, as [learning.graders.NAME].
    """
    from dataclasses import asdict

    from cli.output import print_json
    from training.label.golden import grade_batch, read_gold
    from training.label.graders import grader

    function = grader(name, find_settings(state_dir).learning.graders, field)
    answers = read_gold(gold)
    with transaction(state_dir) as session:
        found = grade_batch(session, batch, answers, function)
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _show(found: Graded) -> None:
    from cli.output import print_table

    rows = [(f"answers of {model}", *_cells(quality)) for model, quality in found.by_model.items()]
    rows += [("all answers", *_cells(found.answers)), ("all requests", *_cells(found.requests))]
    columns = ("graded", "n", "quality", "95 %")
    print_table(columns, rows, numeric=columns[1:])
    click.echo(f"{found.comparisons:,} golden comparisons of pairs")
    for count, what in (
        (found.without_gold, "requests have no gold answer"),
        (found.unknown, "gold answers are to no request of the batch"),
    ):
        if count:
            click.echo(f"{count:,} {what}", err=True)


def _cells(quality: Mean) -> tuple[Any, ...]:
    low, high = quality.interval
    mean = "-" if quality.mean is None else f"{quality.mean:.3f}"
    return f"{quality.n:,}", mean, f"{low:.3f} to {high:.3f}" if quality.n else "-"
