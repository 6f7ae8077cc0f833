"""Prompts for commands that work on this machine: from a file that `submit` or `train` takes, or an evaluation set.

`opened_prompts` and `chunks` read a file piece by piece, as routers score it; `prompts_of` gives a whole set by name.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from cli.inputs import LISTED, STDIN, InputError, Prepared, prepared
from cli.progress import progress_bar

FIRST_CHUNK = 64  # small, so that slow routers soon show how fast they are
CHUNK = 1024  # prompts in memory: enough to bucket by length
CHUNK_CHARACTERS = 16_000_000  # unless one prompt alone is longer


@contextmanager
def opened_prompts(file: str, form: str | None) -> Iterator[Prepared]:
    """A file in any form that `submit` takes, or that gzipped, as OpenAI batch lines. Raises InputError."""
    with _unzipped(file) as plain, prepared(plain, form) as ready:
        for note in ready.notes:
            click.echo(note, err=True)
        yield ready


def chunks(ready: Prepared, title: str) -> Iterator[list[str]]:
    """The prompts in the file's order, with a progress bar. InputError names the first bad lines at the end.

    Their sizes depend on the prompts alone, not on the clock: minibatches differ by rounding, and the same file is to
    get the same scores.
    """
    with progress_bar(title, lambda: _lines(ready)) as advance:
        chunk: list[str] = []
        characters, size = 0, FIRST_CHUNK
        for prompt in _prompts(ready):
            if chunk and (len(chunk) == size or characters + len(prompt) > CHUNK_CHARACTERS):
                yield chunk
                advance(len(chunk))
                chunk, characters, size = [], 0, min(2 * size, CHUNK)
            chunk.append(prompt)
            characters += len(prompt)
        if chunk:
            yield chunk
            advance(len(chunk))


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


@contextmanager
def _unzipped(file: str) -> Iterator[str]:
    """The path of a file's plain content."""
    if not file.endswith(".gz"):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="routebatch-") as directory:
        plain = Path(directory) / Path(file).stem
        try:
            with gzip.open(file) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{file} is no whole gzip file: {error}") from error
        yield str(plain)


def _lines(ready: Prepared) -> int:
    count = sum(1 for _ in ready.stream)
    ready.stream.seek(0)
    return count


def _prompts(ready: Prepared) -> Iterator[str]:
    """What the router sees of every line of an OpenAI batch file. InputError names the first bad lines at the end."""
    from routing_service.openai_format.body import LineError

    bad: list[str] = []
    for number, line in enumerate(ready.stream, 1):
        if not line.strip():
            continue
        try:
            prompt = _prompt(line)
        except LineError as error:
            bad.append(f"line {ready.source_line(number)}: {error.message}")
            if len(bad) > LISTED:
                break
            continue
        if not bad:
            yield prompt
    if bad:
        more = ["more lines are bad"] if len(bad) > LISTED else []
        raise InputError("\n  ".join([f"{ready.name} cannot be scored:", *bad[:LISTED], *more]))


def _prompt(line: bytes) -> str:
    import orjson

    from routing_service.openai_format.body import LineError, check_body, prompt_text

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError("invalid_json_line", f"not JSON: {error}") from None
    body = value.get("body") if isinstance(value, dict) else None
    if not isinstance(body, dict):
        raise LineError("missing_required_parameter", "body is required: an object")
    check_body({"messages": body.get("messages")})
    return prompt_text(body)


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
    with opened_prompts(file, None) as ready:
        return [prompt for chunk in chunks(ready, f"reading {Path(file).name}") for prompt in chunk]
