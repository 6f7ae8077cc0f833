"""`routebatch score`: what a router says of a file of prompts, on this machine, without services or a database."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from cli.inputs import FORMATS, LISTED, STDIN, InputError, Prepared, prepared

if TYPE_CHECKING:
    from routing_service.routers import Router

CHUNK = 1024  # prompts in memory
COLUMNS = ("win_rate", "expected_gain", "std")


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--router", "wanted", help="A directory that `train` wrote, or a router's name. Default: the configured one."
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: found by the file's first line and name.")
@click.option("--output", "-o", type=click.Path(path_type=Path, allow_dash=True), default="-", help="Default: stdout.")
def score(file: str, wanted: str | None, form: str | None, output: Path) -> None:
    """Score a file of prompts, and write a CSV with a row for each of them, in the file's order.

    FILE is what `routebatch submit` takes, or that gzipped. The columns: win_rate, the probability that the strong
    model's answer is preferred, ties as half; expected_gain, its expected quality minus the weak model's, in [-1, 1];
    std, the standard deviation of that. A file with a bad line is refused, and the line is named.
    """
    from cli.results import STDOUT, check_paths, writing
    from routing_service.errors import RoutebatchError

    check_paths(output, None, None if file == STDIN else file)
    try:
        router = find_router(wanted)
        with _unzipped(file) as plain, prepared(plain, form) as ready, writing(output) as stream:
            count = _score(router, ready, stream)
    except BrokenPipeError:
        raise  # click's business: whoever read our output has seen enough
    except RoutebatchError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror or error}") from error
    if output != STDOUT:
        click.echo(f"scored {count:,} prompts with {router.name}: wrote {output}", err=True)


def find_router(wanted: str | None) -> Router:
    """The router of that name or in that directory; the configured one for None."""
    from routing_service.routers import METHODS, canonical, load_router, make_router, router_names
    from routing_service.settings import Settings

    try:
        settings = Settings()  # models and their keys are no concern of offline scoring
    except ValueError as error:
        raise click.ClickException(f"the configuration is wrong, `routebatch doctor` says where: {error}") from error
    name = wanted or settings.routing.router
    names = router_names(settings)
    if canonical(name) in (*METHODS, *names):
        return make_router(name, settings)
    if not Path(name).is_dir():
        raise click.UsageError(f"--router {name}: no such directory, and no router's name ({', '.join(names)})")
    return load_router(Path(name), settings)


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


def _score(router: Router, ready: Prepared, stream: BinaryIO) -> int:
    """Write the scores of all prompts, chunk by chunk, and return how many there are."""
    from cli.progress import progress_bar

    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    with progress_bar("scoring", lambda: _lines(ready.stream)) as advance:
        prompts = _prompts(ready)
        while chunk := list(islice(prompts, CHUNK)):
            writer.writerows(_rows(router, chunk))
            count += len(chunk)
            advance(len(chunk))
    text.detach()
    return count


def _rows(router: Router, prompts: list[str]) -> Iterator[tuple[str, ...]]:
    quality, std = router.score(prompts, ["weak", "strong"])
    # Relative to the weak model, strong's quality is its win rate: a scale half as wide as that of gains.
    for win_rate, deviation in zip(quality[:, 1], std[:, 1], strict=True):
        yield f"{win_rate:.6f}", f"{2 * win_rate - 1:.6f}", f"{2 * deviation:.6f}"


def _lines(stream: BinaryIO) -> int:
    count = sum(1 for _ in stream)
    stream.seek(0)
    return count


def _prompts(ready: Prepared) -> Iterator[str]:
    """What the router sees of every line of an OpenAI batch file. InputError names the first bad lines at the end."""
    from routing_service.body import LineError

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

    from routing_service.body import LineError, check_body, prompt_text

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError("invalid_json_line", f"not JSON: {error}") from None
    body = value.get("body") if isinstance(value, dict) else None
    if not isinstance(body, dict):
        raise LineError("missing_required_parameter", "body is required: an object")
    check_body({"messages": body.get("messages")})
    return prompt_text(body)
