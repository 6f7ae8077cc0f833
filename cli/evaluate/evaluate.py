"""`routebatch evaluate`: routers side by side on evaluation sets, as tables, JSON, pictures and one HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.epilog import epilog
from cli.options import check_pair, database_option, json_option, seed_option
from cli.output import print_json
from cli.progress import progress_bars
from cli.routers.choice import router_pair_options
from cli.routers.prompts import prompts_of
from cli.routers.training_sources import DATABASE, load_sources, name_bad_rows
from cli.stack_access import read_settings

if TYPE_CHECKING:
    from training.data.comparisons import Comparisons
    from training.evaluate.benchmark_sets import Benchmark
    from training.evaluate.dollars import Prices

VM_USD_PER_HOUR = 0.39  # a small virtual machine without a GPU, as in the paper's table 7
COMPARISONS = "comparisons"
SETS = (
    "mmlu",
    "gsm8k",
    "mt-bench",
    COMPARISONS,
)  # training.evaluate.benchmark_sets.BENCHMARKS, which is slow to import
EXISTING = click.Path(exists=True, path_type=Path)


class Data(click.ParamType[Path | str]):
    """A directory, a file, or `db` for the comparisons of the database."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        return DATABASE if value == DATABASE else Path(str(EXISTING.convert(value, param, ctx)))


@click.command(
    epilog=epilog(
        "routebatch evaluate --router mine --router gain --benchmark mmlu --data sets --html report.html",
        "routebatch evaluate --router auto --benchmark comparisons --data db --strong gpt-4 --weak mixtral-8x7b",
        "routebatch evaluate --router mine --benchmark gsm8k --data sets --leave-out outcomes.csv --plots plots",
    )
)
@click.option(
    "--router",
    "wanted",
    multiple=True,
    metavar="DIR|NAME",
    help="Measure this router: a directory that `train` wrote, a name or a version. May be repeated. "
    "Default: the configured one.",
)
@click.option(
    "--benchmark",
    "names",
    type=click.Choice(SETS),
    multiple=True,
    required=True,
    help="Measure on this evaluation set. May be repeated.",
)
@click.option(
    "--data",
    type=Data(),
    multiple=True,
    required=True,
    metavar="DIR|FILE|db",
    help="Read the sets' tables from this directory; comparisons also from files, or from the database (db). "
    "May be repeated.",
)
@router_pair_options
@click.option(
    "--answers",
    nargs=2,
    metavar="STRONG WEAK",
    help="Take these two models' answers from the tables. Default: the paper's; of comparisons --strong and --weak.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="FILE",
    help="Leave out the prompts of this file, such as what the routers were fitted on. May be repeated.",
)
@click.option(
    "--usd-per-million",
    nargs=2,
    type=click.FloatRange(min=0),
    metavar="STRONG WEAK",
    default=(24.7, 0.24),
    help="Count these dollars for a million tokens of the two models.",
)
@click.option(
    "--vm-usd-per-hour",
    type=click.FloatRange(min=0),
    default=VM_USD_PER_HOUR,
    help="Count these dollars an hour for a machine like this one, for the routing overhead.",
)
@seed_option("Resample with this seed for the intervals.")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Write PNG pictures to this directory.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write tables and pictures to this file.")
@json_option
@database_option
def evaluate(
    wanted: tuple[str, ...],
    names: tuple[str, ...],
    data: tuple[Path | str, ...],
    strong: str | None,
    weak: str | None,
    answers: tuple[str, str] | None,
    leave_out: tuple[str, ...],
    usd_per_million: Prices,
    vm_usd_per_hour: float,
    seed: int,
    plots: Path | None,
    html: Path | None,
    as_json: bool,
    state_dir: Path | None,
) -> None:
    """Measure routers on evaluation sets, side by side.

    A set holds prompts to which both models' answers are known. Random routing and the oracle, which knows the
    outcomes, are always shown, and the paper's figures where it has any. The first router is the one that the others
    are compared with, on the same resampled prompts. A router is only measured by prompts that it was not fitted on:
    --leave-out takes those of its training files out of the sets.
    """
    from cli.evaluate.report import print_report, write_files
    from cli.evaluate.run import measure

    check_pair(strong, weak)
    sets = [_load(name, data, answers, (strong, weak), usd_per_million, state_dir) for name in dict.fromkeys(names)]
    sets = _without(sets, leave_out)
    routers = list(dict.fromkeys(wanted or (None,)))
    evaluated = measure(routers, sets, (strong, weak), usd_per_million, vm_usd_per_hour, seed, state_dir)
    write_files(evaluated, plots, html)
    if as_json:
        print_json(evaluated.as_dict())
    else:
        print_report(evaluated)


def _load(
    name: str,
    data: tuple[Path | str, ...],
    answers: tuple[str, str] | None,
    models: tuple[str | None, str | None],
    usd_per_million: Prices,
    state_dir: Path | None,
) -> Benchmark:
    """The evaluation set of that name, from the first directory of `data`; comparisons from its files."""
    from training.evaluate.benchmark_sets import from_comparisons, load_benchmark

    files = [path for path in data if path == DATABASE or (isinstance(path, Path) and path.is_file())]
    if name == COMPARISONS and files:
        return from_comparisons(_comparisons(files, *(answers or models), state_dir))
    directory = next((path for path in data if isinstance(path, Path) and path.is_dir()), None)
    if directory is None:
        raise click.UsageError(f"--data: name the directory with the tables of {name}")
    pair = (models[0], models[1]) if name == COMPARISONS and models[0] and models[1] else None
    return load_benchmark(name, directory, pair=answers or pair, usd_per_million=usd_per_million)


def _comparisons(files: list[Path | str], strong: str | None, weak: str | None, state_dir: Path | None) -> Comparisons:
    with progress_bars() as bars:
        loaded = load_sources(files, strong, weak, state_dir, bars, read_settings())
    name_bad_rows(loaded)
    return loaded.comparisons


def _without(sets: list[Benchmark], leave_out: tuple[str, ...]) -> list[Benchmark]:
    """The sets without the prompts of these files, but for case and spaces."""
    from training.data.decontamination import normalised

    if not leave_out:
        return sets
    unwanted = {normalised(prompt) for file in leave_out for prompt in prompts_of(file, None)}
    return [each.without(prompt for prompt in each.prompts if normalised(prompt) in unwanted) for each in sets]
