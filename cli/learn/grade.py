"""`routebatch grade`: grade a batch's answers by gold answers, and make comparisons of its pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import batch_argument, database_option, json_option
from cli.output import print_json, print_table
from cli.stack_access import find_settings, transaction

if TYPE_CHECKING:
    from training.evaluate.intervals import Mean
    from training.label.golden import Graded


@click.command(
    epilog=epilog(
        "routebatch grade batch_... --gold gold.csv --grader numeric",
        "routebatch grade batch_... --gold gold.jsonl --grader json_field --field total.amount",
    )
)
@batch_argument
@click.option(
    "--gold",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Grade by these gold answers: CSV or JSON lines with custom_id (or id) and gold (or answer).",
)
@click.option(
    "--grader",
    "name",
    metavar="NAME",
    default="exact",
    help="Grade with exact, numeric, multiple_choice, json_field, or a grader of your own.",
)
@click.option(
    "--field",
    metavar="PATH",
    help="With json_field: compare the value at this path, such as total.amount or items.0.name.",
)
@json_option
@database_option
def grade(batch_id: str, gold: Path, name: str, field: str | None, as_json: bool, state_dir: Path | None) -> None:
    """Grade the answers of a batch by gold answers: mean quality by model and of the whole batch.

    Requests that both models have answered (paired sampling) become golden comparisons, which routers are trained on;
    grading again replaces them. Graders of your own stand in the configuration, as [learning.graders.NAME].
    """
    from dataclasses import asdict

    from training.label.golden import grade_batch, read_gold
    from training.label.graders import grader

    function = grader(name, find_settings(state_dir).learning.graders, field)
    answers = read_gold(gold)
    with transaction(state_dir) as session:
        graded = grade_batch(session, batch_id, answers, function)
    if as_json:
        print_json(asdict(graded))
    else:
        _show(graded)


def _show(graded: Graded) -> None:
    rows = [(f"answers of {model}", *_cells(quality)) for model, quality in graded.by_model.items()]
    rows += [("all answers", *_cells(graded.answers)), ("all requests", *_cells(graded.requests))]
    columns = ("graded", "n", "quality", "95 %")
    print_table(columns, rows, numeric=columns[1:])
    click.echo(f"{graded.comparisons:,} golden comparisons of pairs")
    for count, what in (
        (graded.without_gold, "requests have no gold answer"),
        (graded.unknown, "gold answers are to no request of the batch"),
    ):
        if count:
            click.echo(f"{count:,} {what}", err=True)


def _cells(quality: Mean) -> tuple[Any, ...]:
    low, high = quality.interval
    mean = "-" if quality.mean is None else f"{quality.mean:.3f}"
    return f"{quality.n:,}", mean, f"{low:.3f} to {high:.3f}" if quality.n else "-"
