"""`routebatch comparisons`: preferences that routers are fitted on, into the database, out of it, and what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, pair_options
from cli.stack_access import database_options
from cli.stack_access import reading as transaction

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
    """Preferences in the database: which of two models' answers to a prompt is better.

    `routebatch train METHOD --comparisons db` fits a router on them.
    """


@comparisons.command("import", epilog="Exit codes: 0 done, 1 failed or bad rows, 2 usage.")
@click.argument("files", type=FILE, nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: recognised by the columns.")
@click.option("--source", type=click.Choice(SOURCES), help="Whose judgement it is. Default: what rows or the form say.")
@pair_options(
    "The strong model of tables that name none, or the column of its answers.",
    "The weak model of tables that name none, or the column of its answers.",
)
@click.option("--skip-bad", is_flag=True, help="Import the others where rows are bad. Default: none at all.")
@json_option
@database_options
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
    """Import preferences: CSV, JSON lines or a JSON array, plain or gzipped.

    arena: Chatbot Arena's battles. routellm: tables of how good each model's answer is (prompt and a column for each).
    alpaca: AlpacaEval's annotations, or battles with a file of their prompts. jsonl: what `export` writes.
    A file that is imported again adds nothing. Bad rows are named, and unless they are skipped nothing is imported.
    """
    from cli.output import print_json
    from cli.progress import progress_bars
    from training.data.imports import BadRowsError, import_comparisons

    try:
        with transaction(state_dir) as session, progress_bars() as bars:
            named = {"source": source, "strong": strong, "weak": weak}
            found = import_comparisons(session, files, form, **named, skip_bad=skip_bad, progress=bars)
    except BadRowsError as error:
        _name(error.imported)
        if as_json:
            print_json(_counts(error.imported))
        raise click.ClickException(f"{error} (--skip-bad imports the others)") from error
    _name(found)
    if as_json:
        print_json(_counts(found))
    else:
        click.echo(_sentence(found))


@comparisons.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--format", "form", type=click.Choice(["jsonl"]), default="jsonl", show_default=True)
@database_options
def export(file: Path, form: str, state_dir: Path | None) -> None:
    """Write all comparisons to FILE (-: stdout) as JSON lines, which `import` takes again."""
    from cli.output_files import STDOUT, writing
    from cli.progress import progress_bars
    from training.data.database import export_comparisons

    with transaction(state_dir) as session, progress_bars() as bars, writing(file) as stream:
        written = export_comparisons(session, stream, bars)
    if file != STDOUT:
        click.echo(f"wrote {written:,} comparisons to {file}", err=True)


@comparisons.command()
@json_option
@database_options
def stats(as_json: bool, state_dir: Path | None) -> None:
    """Count the comparisons by source, pair of models, month (UTC) and language, with the share of ties.

    Languages are those of a sample of 2,000, told by n-grams; short prompts are often `unknown`.
    """
    from dataclasses import asdict

    from cli.output import print_json
    from training.data.stats import collected

    with transaction(state_dir) as session:
        found = collected(session)
    if as_json:
        print_json(asdict(found))
    elif not found.rows:
        click.echo(f"there are no comparisons yet, and {found.ratings:,} ratings of single answers")
    else:
        _show(found)


def _name(found: Imported) -> None:
    for row in found.bad_rows:
        click.echo(f"bad: {row}", err=True)
    if found.bad > len(found.bad_rows):
        click.echo(f"bad: {found.bad - len(found.bad_rows):,} more rows", err=True)


def _sentence(found: Imported) -> str:
    parts = [f"{found.added:,} comparisons added"]
    for count, what in (
        (found.known, "were there already"),
        (found.bad, "bad rows skipped"),
        (found.short_prompts, "left out: battles on short prompts"),
        (found.same_model, "left out: a model against itself"),
    ):
        if count:
            parts.append(f"{count:,} {what}")
    return ", ".join(parts)


def _counts(found: Imported) -> dict[str, Any]:
    names = ("rows", "added", "known", "bad", "short_prompts", "same_model")
    return {name: getattr(found, name) for name in names} | {"bad_rows": [_bad(row) for row in found.bad_rows]}


def _bad(row: BadRow) -> dict[str, Any]:
    return {"file": row.file, "row": row.row, "reason": row.reason}


def _show(found: Collected) -> None:
    from cli.output import print_table

    ties = f"{100 * (found.tie_share or 0):.1f} % ties"
    click.echo(
        f"{found.rows:,} comparisons on {found.prompts:,} prompts, {ties}; {found.ratings:,} ratings of single answers"
    )
    pairs = found.by_pair[:LISTED_PAIRS]
    left_out = len(found.by_pair) - len(pairs)
    sampled = "" if found.sampled == found.rows else f" (of a sample of {found.sampled:,})"
    tables: list[tuple[str, tuple[str, ...], list[Group]]] = [
        ("by source", ("source",), found.by_source),
        (f"by pair (and {left_out:,} more)" if left_out else "by pair", ("model_a", "model_b", "outcome"), pairs),
        ("by month", ("month",), found.by_month),
        (f"by language{sampled}", ("language",), found.by_language),
    ]
    for title, names, groups in tables:
        columns = (*names, "rows", "ties")
        rows = [(*(_cell(group[name]) for name in names), *_figures(group)) for group in groups]
        print_table(columns, rows, title=title, numeric=("outcome", "rows", "ties"))


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _figures(group: Group) -> tuple[str, str]:
    return f"{group['rows']:,}", f"{100 * group['tie_share']:.1f} %"
