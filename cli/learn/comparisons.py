"""`routebatch comparisons`: import and export the preferences that routers are fitted on, and count them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import database_option, json_option, pair_options
from cli.output import print_json, print_table
from cli.output_files import STDOUT, writing
from cli.progress import progress_bars
from cli.stack_access import transaction

if TYPE_CHECKING:
    from training.data.imports import Imported
    from training.data.stats import Collected, Group
    from training.data.tables import BadRow

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FORMATS = ("arena", "routellm", "alpaca", "jsonl")
SOURCES = ("arena", "golden", "judge", "feedback")
LISTED_PAIRS = 20


@click.group()
def comparisons() -> None:
    """Import, export and count comparisons: which of two models' answers to a prompt is better.

    `routebatch train METHOD --comparisons db` fits a router on them.
    """


@comparisons.command(
    "import",
    epilog=epilog(
        "routebatch comparisons import arena.jsonl.gz",
        "routebatch comparisons import outcomes.csv --strong gpt-4 --weak mixtral-8x7b --source golden",
        codes="Exit codes: 0 done, 1 failed or bad rows, 2 wrong usage.",
    ),
)
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...", help="The files to import.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Read files of this form. Default: the one that their columns tell.",
)
@click.option(
    "--source",
    type=click.Choice(SOURCES),
    help="Record this source of the judgements. Default: what rows or the form say.",
)
@pair_options(
    "Take this model for the strong one of tables that name none; also the column of its answers.",
    "Take this model for the weak one of tables that name none; also the column of its answers.",
)
@click.option("--skip-bad", is_flag=True, help="Import the good rows where others are bad. Default: import none.")
@json_option
@database_option
def import_(
    files: tuple[Path, ...],
    form: str | None,
    source: str | None,
    strong: str | None,
    weak: str | None,
    skip_bad: bool,
    as_json: bool,
    state_dir: Path | None,
) -> None:
    """Import comparisons: CSV, JSON lines or a JSON array, plain or gzipped.

    arena: Chatbot Arena's battles. routellm: tables of how good each model's answer is (prompt and a column for each).
    alpaca: AlpacaEval's annotations, or battles with a file of their prompts. jsonl: what `export` writes.
    A file that is imported again adds nothing. Bad rows are named, and unless they are skipped nothing is imported.
    """
    from training.data.imports import BadRowsError, import_comparisons

    try:
        with transaction(state_dir) as session, progress_bars() as bars:
            named = {"source": source, "strong": strong, "weak": weak}
            imported = import_comparisons(session, files, form, **named, skip_bad=skip_bad, progress=bars)
    except BadRowsError as error:
        _name_bad_rows(error.imported)
        if as_json:
            print_json(_counts(error.imported))
        raise click.ClickException(f"{error} (--skip-bad imports the others)") from error
    _name_bad_rows(imported)
    if as_json:
        print_json(_counts(imported))
    else:
        click.echo(_sentence(imported))


@comparisons.command()
@click.argument(
    "file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="The file to write; - for stdout."
)
@click.option("--format", "form", type=click.Choice(["jsonl"]), default="jsonl", help="Write this form.")
@database_option
def export(file: Path, form: str, state_dir: Path | None) -> None:
    """Export all comparisons to FILE (- for stdout) as JSON lines, which `import` takes again."""
    from training.data.database import export_comparisons

    with transaction(state_dir) as session, progress_bars() as bars, writing(file) as stream:
        written = export_comparisons(session, stream, bars)
    if file != STDOUT:
        click.echo(f"wrote {written:,} comparisons to {file}", err=True)


@comparisons.command()
@json_option
@database_option
def stats(as_json: bool, state_dir: Path | None) -> None:
    """Count the comparisons by source, pair of models, month (UTC) and language, with the share of ties.

    Languages are those of a sample of 2,000, told by n-grams; short prompts are often `unknown`.
    """
    from dataclasses import asdict

    from training.data.stats import collected

    with transaction(state_dir) as session:
        counted = collected(session)
    if as_json:
        print_json(asdict(counted))
    elif not counted.rows:
        click.echo(f"there are no comparisons yet, and {counted.ratings:,} ratings of single answers")
    else:
        _show(counted)


def _name_bad_rows(imported: Imported) -> None:
    for row in imported.bad_rows:
        click.echo(f"bad: {row}", err=True)
    if imported.bad > len(imported.bad_rows):
        click.echo(f"bad: {imported.bad - len(imported.bad_rows):,} more rows", err=True)


def _sentence(imported: Imported) -> str:
    parts = [f"{imported.added:,} comparisons added"]
    for count, what in (
        (imported.known, "were there already"),
        (imported.bad, "bad rows skipped"),
        (imported.short_prompts, "left out: battles on short prompts"),
        (imported.same_model, "left out: a model against itself"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    return ", ".join(parts)


def _counts(imported: Imported) -> dict[str, Any]:
    names = ("rows", "added", "known", "bad", "short_prompts", "same_model")
    return {name: getattr(imported, name) for name in names} | {"bad_rows": [_bad(row) for row in imported.bad_rows]}


def _bad(row: BadRow) -> dict[str, Any]:
    return {"file": row.file, "row": row.row, "reason": row.reason}


def _show(counted: Collected) -> None:
    ties = f"{100 * (counted.tie_share or 0):.1f} % ties"
    ratings = f"{counted.ratings:,} ratings of single answers"
    click.echo(f"{counted.rows:,} comparisons on {counted.prompts:,} prompts, {ties}; {ratings}")
    pairs = counted.by_pair[:LISTED_PAIRS]
    left_out = len(counted.by_pair) - len(pairs)
    sampled = "" if counted.sampled == counted.rows else f" (of a sample of {counted.sampled:,})"
    tables: list[tuple[str, tuple[str, ...], list[Group]]] = [
        ("by source", ("source",), counted.by_source),
        (f"by pair (and {left_out:,} more)" if left_out else "by pair", ("model_a", "model_b", "outcome"), pairs),
        ("by month", ("month",), counted.by_month),
        (f"by language{sampled}", ("language",), counted.by_language),
    ]
    for title, names, groups in tables:
        columns = (*names, "rows", "ties")
        rows = [(*(_cell(group[name]) for name in names), *_figures(group)) for group in groups]
        print_table(columns, rows, title=title, numeric=("outcome", "rows", "ties"))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _figures(group: Group) -> tuple[str, str]:
    return f"{group['rows']:,}", f"{100 * group['tie_share']:.1f} %"
