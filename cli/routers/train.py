"""`routebatch train`: fit a router on comparisons, from files or the database, and write it to a directory.

Below the command stands what it prints: what was read and left out, how well the fit is calibrated, and what the router
is worth on prompts that were held out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import artifact_option, check_pair, database_option, json_option, pair_options, seed_option
from cli.output import print_json, print_table
from cli.output_files import check_artifact
from cli.progress import progress_bars
from cli.routers.decontamination import decontaminate, decontaminate_options
from cli.routers.method_options import parse_options
from cli.routers.training_sources import Source, labelled_by_tier, load_sources, name_bad_rows
from cli.stack_access import read_settings

if TYPE_CHECKING:
    from routing_service.routers.registry import Router
    from training.data.comparisons import Comparisons
    from training.data.decontamination import Decontamination
    from training.data.readers import Loaded
    from training.evaluate.metrics import Evaluation


class MethodName(click.ParamType[str]):
    """A method of fitting or its alias; the list is read when it is needed."""

    name = "method"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from routing_service.routers.registry import canonical
        from training.fit.methods import METHODS

        if canonical(value) not in METHODS:
            self.fail(f"{value!r} is no method; choose one of: {', '.join(METHODS)}", param, ctx)
        return canonical(str(value))


@click.command(
    epilog=epilog(
        "routebatch train gain --comparisons outcomes.csv --output mine",
        "routebatch train mf --comparisons arena.jsonl.gz --by-tier --hold-out 0.2 --output mf",
        "routebatch train gain --comparisons db --decontaminate mmlu --data sets --set landmarks=512 --output mine",
    )
)
@click.argument("method", metavar="METHOD", type=MethodName(), help="The method, or its alias.")
@click.option(
    "--comparisons",
    "sources",
    type=Source(),
    multiple=True,
    required=True,
    metavar="FILE|db",
    help="Fit on this file, or on what the database holds (db). May be repeated.",
)
@click.argument("more", type=Source(), nargs=-1, metavar="[FILE]...", help="More files of comparisons.")
@pair_options(
    "Take this model for the strong one. Most methods need a pair where rows name models.",
    "Take this model for the weak one.",
)
@click.option(
    "--by-tier",
    is_flag=True,
    help="Make the pair of battles of many models: the two highest of ten tiers are strong, the third is weak.",
)
@seed_option("Draw with this seed; the same seed gives the same router.")
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Set an option of the method. May be repeated."
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.9),
    default=0.0,
    help="Leave this share of the prompts out of the fit, and measure the router on it.",
)
@decontaminate_options
@artifact_option
@json_option
@database_option
def train(
    method: str,
    sources: tuple[Path | str, ...],
    more: tuple[Path | str, ...],
    strong: str | None,
    weak: str | None,
    by_tier: bool,
    seed: int,
    pairs: tuple[str, ...],
    hold_out: float,
    evaluation_sets: tuple[str, ...],
    data: Path | None,
    similarity: float | None,
    encoder: str | None,
    output: Path,
    as_json: bool,
    state_dir: Path | None,
) -> None:
    """Fit a router on labelled prompts.

    It is written to a directory, which `routebatch score --router` takes. METHOD is a routing method or its alias.

    Files are CSV or JSON lines, plain or gzipped, in a form that is recognised by its columns: outcome tables (prompt,
    strong_correct, weak_correct), comparisons (prompt, model_a, model_b, outcome), Chatbot Arena, battles with a file
    of their prompts, scores (prompt, mixtral_score) or ratings (prompt, model, score). Bad rows are left out, counted
    and named.
    """
    from training.fit import methods

    check_pair(strong, weak)
    if by_tier and strong is not None:
        raise click.UsageError("--by-tier makes the pair itself: name neither --strong nor --weak")
    chosen = methods.method(method)
    options = parse_options(chosen.options, pairs)
    check_artifact(output)
    settings = read_settings()
    with progress_bars() as bars:
        ratings = getattr(options, "on_ratings", False)
        loaded = load_sources([*sources, *more], strong, weak, state_dir, bars, settings, ratings=ratings)
    tiers: dict[str, Any] = {}
    if by_tier:
        loaded, tiers["tiers"] = labelled_by_tier(loaded)
    name_bad_rows(loaded)
    comparisons, left_out = decontaminate(loaded.comparisons, evaluation_sets, data, similarity, encoder, settings)
    fitted, held = _parts(comparisons, hold_out, seed, any_pair=chosen.any_pair)
    with progress_bars() as bars:
        router = chosen.fit(fitted, seed=seed, options=options, settings=settings, progress=bars)
        figures = _figures(router, held, seed) if held is not None else None
        if not first_process():
            return
        if left_out is not None:
            getattr(router, "metadata", {})["decontamination"] = left_out.as_dict()
        router.save(output)
    result = {"method": method, "output": str(output), "seed": seed, "fingerprint": fitted.fingerprint()}
    print_report(result | tiers, loaded, left_out, router, figures, as_json)


def first_process() -> bool:
    """Whether this process saves and reports: under `accelerate launch` and torchrun several fit the same router."""
    return os.environ.get("RANK", "0") == "0"


def _parts(
    comparisons: Comparisons, hold_out: float, seed: int, *, any_pair: bool
) -> tuple[Comparisons, Comparisons | None]:
    """What is fitted on, and what is held out. DataError where either would be of no use, before the fit."""
    from training.data.labels import DataError, require_contrast

    fitted, held = comparisons, None
    if hold_out:
        of_pair = len(comparisons.labels())
        held, fitted = comparisons.split(hold_out, seed)
        if not len(fitted) or not len(held.of_pair()[0]):
            raise DataError(f"{of_pair} comparisons of the pair are too few to hold some out")
    if any_pair:
        fitted.require_contrast()
    else:
        require_contrast(fitted.labels())
    return fitted, held


def _figures(router: Router, held: Comparisons, seed: int) -> Evaluation:
    from training.evaluate.metrics import evaluate

    labels = held.labels()
    strong, weak = held.pair or ("strong", "weak")
    return evaluate(router.win_rates(labels.prompts, strong, weak), labels.gain, seed=seed)


LISTED = 10  # models of a tier
SHOWN = ("apgr", "apgr_ten_bins", "cpt_50", "cpt_80", "calibration_error", "brier", "oracle")


def print_report(
    result: dict[str, Any],
    loaded: Loaded,
    left_out: Decontamination | None,
    router: Router,
    figures: Evaluation | None,
    as_json: bool,
) -> None:
    """`result` names what was made, of what."""
    metadata: dict[str, Any] = getattr(router, "metadata", {})
    if as_json:
        bad = [{"file": row.file, "row": row.row, "reason": row.reason} for row in loaded.bad]
        held_out = figures.as_dict() if figures else None
        rows_read = {"counted": loaded.counted, "bad": bad, "decontaminated": left_out and left_out.as_dict()}
        print_json({**result, **rows_read, "held_out": held_out, "metadata": metadata})
        return
    rows = [(name.replace("_", " "), f"{count:,}") for name, count in loaded.counted.items() if count or name == "bad"]
    if left_out is not None:
        rows.append(("left out, in evaluation sets", _left_out(left_out)))
    for name in ("strong", "weak") if "tiers" in result else ():
        models = result["tiers"][name]
        rows.append((f"{name} by tier", ", ".join(models[:LISTED]) + (", ..." if len(models) > LISTED else "")))
    if (fitted_on := metadata.get("data", {}).get("rows")) is not None:
        rows.append(("fitted on", f"{fitted_on:,}"))
    if measured := metadata.get("metrics", {}).get("calibration"):
        rows.append(("calibration", _calibration(measured)))
    if figures is not None:
        rows += [("held out", f"{figures.prompts:,}"), *_shown(figures)]
    print_table(["router", str(result["output"])], rows, numeric=[str(result["output"])])


def _left_out(removed: Decontamination) -> str:
    similar = f"{removed.similar:,} too similar" if removed.encoder else "similar ones were not looked for"
    return f"{removed.rows:,} rows: {removed.same:,} prompts the same, {similar}"


def _calibration(measured: dict[str, Any]) -> str:
    """What calibrating did to the squared error on the comparisons that the fit held out for it."""
    if measured.get("error_before") is None:
        return f"none: {measured['held_out']:,} held out are too few"
    before, after, noise = (measured[name] for name in ("error_before", "error_after", "standard_error"))
    verdict = "applied" if measured["applied"] else "not applied"
    return f"{verdict}: error {before:.4f}, with it {after:.4f} ± {noise:.4f}, {measured['held_out']:,} held out"


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
