"""Sets of prompts by name, for commands that compare them: evaluation sets, files that `submit` or `train` takes."""

from __future__ import annotations

from pathlib import Path

import click

from cli.inputs import STDIN


def prompts_of(named: str, data: Path | None) -> list[str]:
    """The prompts of the evaluation set of that name, whose tables lie in `data`, or of a file, in its order.

    UsageError for what is neither, or an evaluation set without `data`; InputError, DataError for a bad file.
    """
    from training.evaluate.benchmark_sets import SETS, load_benchmark

    if named in SETS:
        if data is None:
            raise click.UsageError(f"{named} is an evaluation set: name the directory of its tables with --data")
        return load_benchmark(named, data).prompts
    if named != STDIN and not Path(named).is_file():
        raise click.UsageError(f"{named}: no such file, and no evaluation set ({', '.join(SETS)})")
    return _compared(Path(named)) or _submitted(named)


def _compared(path: Path) -> list[str]:
    """The prompts of a file of comparisons; none of a file that is no such thing."""
    from training.data.forms import recognise
    from training.data.readers import load_comparisons
    from training.data.tables import DataError, opened

    try:
        with opened(path) as table:
            form = recognise(table.columns, None, None)
    except DataError:
        return []  # text, say: it need not be a table
    if form is None or form.by_id:
        return []
    loaded = load_comparisons([path])
    if loaded.counted["bad"]:
        click.echo(f"left out {loaded.counted['bad']:,} bad rows, the first: {loaded.bad[0]}", err=True)
    return loaded.comparisons.prompts


def _submitted(file: str) -> list[str]:
    from cli.routers.scoring import chunks, opened_prompts

    with opened_prompts(file, None) as ready:
        return [prompt for chunk in chunks(ready, f"reading {Path(file).name}") for prompt in chunk]
