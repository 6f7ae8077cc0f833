"""`routebatch train`: files of comparisons become a fitted router, on this machine, without services or a database."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import click

if TYPE_CHECKING:
    from routing_service.routers import Router
    from training.comparisons import Comparisons
    from training.evaluation import Evaluation
    from training.readers import Loaded

LISTED = 10  # bad rows
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SHOWN = ("apgr", "apgr_ten_bins", "cpt_50", "cpt_80", "calibration_error", "brier", "oracle")


class MethodName(click.ParamType[str]):
    """A method of fitting or its alias; the list is read when it is needed."""

    name = "method"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from routing_service.routers import canonical
        from training.methods import METHODS

        if canonical(value) not in METHODS:
            self.fail(f"{value!r} is none of {', '.join(METHODS)}", param, ctx)
        return canonical(str(value))


@click.command(epilog="Exit codes: 0 done, 1 failed, 2 usage.")
@click.argument("method", type=MethodName())
@click.option(
    "--comparisons", "files", type=FILE, multiple=True, required=True, help="Labels; may be given repeatedly."
)
@click.argument("more", type=FILE, nargs=-1, metavar="[FILE]...")
@click.option("--strong", help="The strong model's name in the data. Needed where rows name models.")
@click.option("--weak", help="The weak model's name in the data.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="An option of the method; may be repeated.")
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.9),
    default=0.0,
    show_default=True,
    help="Leave this share of the prompts out of the fit, and measure the router on it.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="The artifact: a directory."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, alone, on stdout.")
def train(
    method: str,
    files: tuple[Path, ...],
    more: tuple[Path, ...],
    strong: str | None,
    weak: str | None,
    seed: int,
    pairs: tuple[str, ...],
    hold_out: float,
    output: Path,
    as_json: bool,
) -> None:
    """Fit a router on labelled prompts and write it to a directory, which `routebatch score --router` takes.

    The files are CSV or JSON lines, plain or gzipped, in a form that is recognised by its columns: outcome tables
    (prompt, strong_correct, weak_correct), comparisons (prompt, model_a, model_b, outcome), Chatbot Arena, battles with
    a file of their prompts, or scores (prompt, mixtral_score). Bad rows are left out, counted and named.
    """
    from cli.progress import spinner
    from routing_service.errors import RoutebatchError
    from routing_service.settings import Settings
    from training import methods

    if (strong is None) != (weak is None):
        raise click.UsageError("--strong and --weak are named together")
    chosen = methods.method(method)
    options = parse_options(chosen.options, pairs)
    _check_output(output)
    try:
        with spinner("reading"):
            loaded, fitted, held = _load([*files, *more], strong, weak, hold_out, seed)
        with spinner(f"fitting {method} on {len(fitted)} comparisons"):
            router = chosen.fit(fitted, seed=seed, options=options, settings=Settings(), progress=methods.silent)
            figures = _figures(router, held, seed) if held is not None else None
            router.save(output)
    except RoutebatchError as error:
        raise click.ClickException(str(error)) from error
    _name_bad_rows(loaded)
    result = {"method": method, "output": str(output), "seed": seed, "fingerprint": fitted.fingerprint()}
    _report(result, loaded, fitted, figures, as_json)


def parse_options(options: type[Any], pairs: Iterable[str]) -> Any:
    """A method's options from KEY=VALUE texts, by the types of its dataclass. UsageError names what is wrong."""
    from routing_service.errors import RoutebatchError

    hints = get_type_hints(options)
    known = {field.name: hints[field.name] for field in fields(options) if field.init}
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise click.UsageError(f"--set {pair}: KEY=VALUE is expected, KEY one of: {', '.join(known)}")
        try:
            found[key] = _value(value.strip(), known[key])
        except ValueError as error:
            raise click.UsageError(f"--set {pair}: {error}") from None
    try:
        return options(**found)
    except (ValueError, RoutebatchError) as error:
        raise click.UsageError(f"--set: {error}") from None


def _value(text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if text.lower() in ("", "none"):
            return None
        kind = next(one for one in get_args(kind) if one is not types.NoneType)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false is expected")
        return text.lower() == "true"
    if kind in (int, float):
        value = kind(text)
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError("a finite number is expected")
        return value
    return text


def _check_output(output: Path) -> None:
    """Refuse before the fit what would be refused after it."""
    if output.is_dir() and any(output.iterdir()) and not (output / "metadata.json").is_file():
        raise click.UsageError(f"{output} holds something that is no router: name an empty or a new directory")


def _load(
    files: list[Path], strong: str | None, weak: str | None, hold_out: float, seed: int
) -> tuple[Loaded, Comparisons, Comparisons | None]:
    """What was read, what is fitted on, what is held out."""
    from training.data import DataError, require_contrast
    from training.readers import load_comparisons

    loaded = load_comparisons(files, strong=strong, weak=weak)
    held, fitted = loaded.comparisons.split(hold_out, seed)
    require_contrast(fitted.labels())
    if hold_out and not len(held):
        raise DataError(f"{len(loaded.comparisons)} comparisons are too few to hold some out")
    return loaded, fitted, held if hold_out else None


def _figures(router: Router, held: Comparisons, seed: int) -> Evaluation:
    from training.evaluation import evaluate

    labels = held.labels()
    strong, weak = held.pair or ("strong", "weak")
    return evaluate(router.win_rates(labels.prompts, strong, weak), labels.gain, seed=seed)


def _name_bad_rows(loaded: Loaded) -> None:
    for row in loaded.bad[:LISTED]:
        click.echo(f"left out: {row}", err=True)
    if loaded.counted["bad"] > LISTED:
        click.echo(f"left out: {loaded.counted['bad'] - LISTED:,} more bad rows", err=True)


def _report(
    result: dict[str, Any], loaded: Loaded, fitted: Comparisons, figures: Evaluation | None, as_json: bool
) -> None:
    from cli.output import print_json, print_table
    from routing_service.routers import artifact

    if as_json:
        bad = [{"file": row.file, "row": row.row, "reason": row.reason} for row in loaded.bad]
        held_out = figures.as_dict() if figures else None
        metadata = artifact.read(Path(result["output"])).metadata
        print_json({**result, "counted": loaded.counted, "bad": bad, "held_out": held_out, "metadata": metadata})
        return
    rows = [(name.replace("_", " "), f"{count:,}") for name, count in loaded.counted.items() if count or name == "bad"]
    rows.append(("fitted on", f"{len(fitted):,}"))
    if figures is not None:
        rows += [("held out", f"{figures.prompts:,}"), *_shown(figures)]
    print_table(["router", str(result["output"])], rows, numeric=[str(result["output"])])


def _shown(figures: Evaluation) -> list[tuple[str, str]]:
    """The figures as a table shows them; the interval and what chance would give stand beside APGR."""
    values = figures.as_dict()
    if figures.apgr is None:
        values["apgr"] = "none: strong is no better on the held-out prompts"
    rows = [(name.replace("_", " "), _figure(values[name])) for name in SHOWN if values[name] is not None]
    for name in ("apgr_interval", "random_interval"):
        if values[name] is not None:
            rows.append((name.replace("_", " "), " to ".join(map(_figure, values[name]))))
    return rows


def _figure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"
