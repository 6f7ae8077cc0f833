"""What the commands that score a file share: the router and its pair of models, and the file's prompts in chunks."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.inputs import LISTED, InputError, Prepared, prepared
from cli.options import pair_options
from cli.stack_access import read_settings

if TYPE_CHECKING:
    from routing_service.routers.registry import Router
    from routing_service.settings import Settings

FIRST_CHUNK = 64  # small, so that slow routers soon show how fast they are
CHUNK = 1024  # prompts in memory: enough to bucket by length
CHUNK_CHARACTERS = 16_000_000  # unless one prompt alone is longer
ROLES = ("strong", "weak")  # what a router calls its own pair

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Chosen:
    """A router, and the two models that it is to compare."""

    router: Router
    strong: str
    weak: str


def router_option(command: Command) -> Command:
    text = (
        "A directory that `train` wrote, a router's name, or a router version (12, version-12; auto: the active one)."
    )
    return click.option("--router", "wanted", help=f"{text} Default: the configured one; without any, gain.")(command)


# For routers that know more models than two.
router_pair_options = pair_options(
    "The strong model. Default: the dearest of the configured candidates; without any, the router's strong model.",
    "The weak model. Default: the cheapest of the configured candidates; without any, the router's weak model.",
)


def choose(
    wanted: str | None,
    strong: str | None,
    weak: str | None,
    settings: Settings | None = None,
    state_dir: Path | None = None,
) -> Chosen:
    """The router of that name or in that directory, the configured one for None, and its pair."""
    if (strong is None) != (weak is None):
        raise click.UsageError("--strong and --weak are named together")
    if strong is not None and strong == weak:
        raise click.UsageError("--strong and --weak name the same model")
    settings = settings or read_settings()
    router = find_router(wanted, settings, state_dir)
    if strong is not None and weak is not None:
        return Chosen(router, strong, weak)
    candidates = settings.candidates
    return Chosen(router, *((candidates[-1], candidates[0]) if len(candidates) > 1 else ROLES))


def find_router(wanted: str | None, settings: Settings | None = None, state_dir: Path | None = None) -> Router:
    """The router of that name or in that directory; the configured one for None, which asks no database of `auto`.

    `state_dir`: whose versions are meant, as of the operator commands.
    """
    from cli.progress import spinner
    from cli.stack_access import load_active, load_version, number_of
    from routing_service.routers.registry import AUTO, METHODS, canonical, load_router, make_router, router_names

    settings = settings or read_settings()
    name = wanted or settings.routing.router
    names = router_names(settings)
    with spinner(f"loading the router {name}"):
        if canonical(name) not in names and Path(name).is_dir():
            return load_router(Path(name), settings)
        if (number := number_of(name)) is not None:
            return load_version(number, state_dir, settings)
        if wanted == AUTO:
            return load_active(state_dir, settings)
        if canonical(name) in (*METHODS, *names):
            return make_router(name, settings)
    raise click.UsageError(f"--router {name}: no such directory, and no router's name ({', '.join(names)})")


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
    from cli.progress import progress_bar

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
