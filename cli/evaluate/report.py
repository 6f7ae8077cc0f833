"""What `routebatch evaluate` shows: the same tables on the terminal and in an HTML file, and the pictures.

The HTML file is `report.html.jinja` filled in: no scripts, nothing loaded from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.evaluate.run import Evaluated
from cli.output import print_table
from training.evaluate.assessment import BUDGETS, Assessment, Line
from training.evaluate.published import COST_RATIOS, OVERHEAD, published

MISSING = "-"
RANKING = ("router", "APGR", "95 %", "minus the first, 95 %", "APGR, ten bins", "CPT 50 %", "CPT 80 %")
WORTH = ("router", "cost ratio 50 %", "cost ratio 80 %", "calibration error", "Brier")
OVERHEAD_COLUMNS = ("router", "method", "requests/s", "$ a million requests")
PICTURES = {
    "strong-calls": "Quality against the share of strong calls",
    "dollars": "Quality against dollars",
    "calibration": "Calibration of the win rate",
}
TEMPLATE = "report.html.jinja"


@dataclass(frozen=True, slots=True)
class Table:
    """Texts only; the HTML template escapes them. The first column names the row, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_report(evaluated: Evaluated) -> None:
    """The tables on stdout, the notes on stderr."""
    for note in evaluated.notes:
        click.echo(f"note: {note}", err=True)
    for assessment in evaluated.assessments:
        click.echo(summary(assessment))
        for table in tables(assessment):
            print_table(table.columns, table.rows, title=table.title, numeric=table.columns[1:])
    speed = overhead(evaluated)
    print_table(speed.columns, speed.rows, title=speed.title, numeric=speed.columns[2:])


def write_files(evaluated: Evaluated, plots: Path | None, html: Path | None) -> None:
    """The pictures and the HTML report, where they are wanted. OSError where they cannot be written."""
    if plots is None and html is None:
        return
    from cli.evaluate.plots import draw

    pictures = {assessment.benchmark.name: draw(assessment) for assessment in evaluated.assessments}
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, drawn in pictures.items():
            for kind, png in drawn.items():
                (plots / f"{name}-{kind}.png").write_bytes(png)
        click.echo(f"wrote {sum(map(len, pictures.values()))} pictures to {plots}", err=True)
    if html is not None:
        html.write_text(page(evaluated, pictures), encoding="utf-8")
        click.echo(f"wrote {html}", err=True)


def page(evaluated: Evaluated, pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    """The HTML report. `pictures`: PNG files by set and kind. Every text is escaped: names come from files and the
    command line."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cli.evaluate", ""), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    sets = [_set(assessment, pictures[assessment.benchmark.name]) for assessment in evaluated.assessments]
    return environment.get_template(TEMPLATE).render(
        notes=evaluated.notes, sets=sets, overhead=overhead(evaluated), seed=evaluated.seed
    )


def _set(assessment: Assessment, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """One evaluation set, as the template shows it."""
    drawn = [{"title": PICTURES[kind], "png": base64.b64encode(png).decode("ascii")} for kind, png in pictures.items()]
    name, tables_of_set = assessment.benchmark.name, list(tables(assessment))
    return {"name": name, "summary": summary(assessment), "tables": tables_of_set, "pictures": drawn}


def summary(assessment: Assessment) -> str:
    """A sentence: which prompts, and what the models alone are worth."""
    benchmark = assessment.benchmark
    left_out = f", {benchmark.left_out:,} left out" if benchmark.left_out else ""
    better = "strong" if assessment.all_strong >= assessment.all_weak else "weak"
    strong, weak = benchmark.pair
    return (
        f"{benchmark.name}: {len(benchmark):,} prompts{left_out}. All to weak ({weak}) {assessment.all_weak:.3f}, "
        f"all to strong ({strong}) {assessment.all_strong:.3f}; the better single model is {better}."
    )


def tables(assessment: Assessment) -> Iterator[Table]:
    """Of one set: the ranking, what it is worth, and quality at fixed dollars where costs are known."""
    name = assessment.benchmark.name
    yield Table("ranking", RANKING, [*map(_ranking, assessment.lines()), *_published(name)])
    yield Table("worth", WORTH, [*map(_worth, assessment.lines()), *_published_ratios(name)])
    if assessment.budgets is not None:
        budgets = zip(BUDGETS, assessment.budgets, strict=True)
        columns = ["router", *(f"{100 * part:.0f} %: ${usd:,.4g}" for part, usd in budgets)]
        rows = [[line.name, *map(_figure, line.at_budgets or [])] for line in assessment.lines()]
        yield Table("quality at fixed dollars, as parts of what lies between all-weak and all-strong", columns, rows)


def overhead(evaluated: Evaluated) -> Table:
    """What the routers themselves cost, and what the paper's did."""
    rows: list[Sequence[str]] = [
        (name, evaluated.methods[name], f"{speed.requests_per_second:,.0f}", f"{speed.usd_per_million_requests:,.4f}")
        for name, speed in evaluated.overhead.items()
    ]
    rows += [("published", name, f"{rate:,.2f}", f"{usd:,.2f}") for name, (rate, usd) in OVERHEAD.items()]
    price = next(iter(evaluated.overhead.values())).usd_per_hour
    return Table(
        f"routing overhead on this machine at ${price:g} an hour, encoders without their cache", OVERHEAD_COLUMNS, rows
    )


def _ranking(line: Line) -> list[str]:
    figures = map(_figure, (line.apgr_ten_bins, line.cpt_50, line.cpt_80))
    return [line.name, _figure(line.apgr), _interval(line.apgr_interval), _interval(line.difference, "+"), *figures]


def _worth(line: Line) -> list[str]:
    ratios = (f"{ratio:.2f}" if ratio is not None else MISSING for ratio in (line.cost_ratio_50, line.cost_ratio_80))
    return [line.name, *ratios, _figure(line.calibration_error), _figure(line.brier)]


def _published(name: str) -> Iterator[list[str]]:
    """The paper's rows: its APGR is that of ten bins."""
    for row in published(name):
        label = f"published: {row.method}" + ("" if row.method == "random" else f", {row.data}")
        yield [label, MISSING, MISSING, MISSING, *map(_figure, (row.apgr, row.cpt_50, row.cpt_80))]


def _published_ratios(name: str) -> Iterator[list[str]]:
    if name in COST_RATIOS:
        half, most = COST_RATIOS[name]
        yield ["published: its best router, by strong calls", f"{half:.2f}", f"{most:.2f}", MISSING, MISSING]


def _figure(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _interval(both: tuple[float, float] | None, sign: str = "") -> str:
    return MISSING if both is None else f"{both[0]:{sign}.3f} to {both[1]:{sign}.3f}"
