"""What `routebatch evaluate` shows: tables, which the terminal and the HTML report share, pictures, one HTML file.

The report of `routebatch evaluate` as one HTML file: no scripts, nothing loaded from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import click

from cli.evaluate.run import Evaluated
from training.evaluate.assessment import BUDGETS, Assessment, Line
from training.evaluate.published import COST_RATIOS, OVERHEAD, published

MISSING = "-"
RANKING = ("router", "APGR", "95 %", "minus the first, 95 %", "APGR, ten bins", "CPT 50 %", "CPT 80 %")
WORTH = ("router", "cost ratio 50 %", "cost ratio 80 %", "calibration error", "Brier")
OVERHEAD_COLUMNS = ("router", "method", "requests/s", "$ a million requests")


@dataclass(frozen=True, slots=True)
class Table:
    """Texts only: whoever shows it escapes them. The first column names the row, the others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_report(found: Evaluated) -> None:
    from cli.output import print_table

    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for assessment in found.assessments:
        click.echo(summary(assessment))
        for table in tables(assessment):
            print_table(table.columns, table.rows, title=table.title, numeric=table.columns[1:])
    print_table(OVERHEAD_COLUMNS, overhead(found).rows, title=overhead(found).title, numeric=OVERHEAD_COLUMNS[2:])


def write_files(found: Evaluated, plots: Path | None, html: Path | None) -> None:
    """The pictures and the HTML report, where they are wanted. OSError where they cannot be written."""
    if plots is None and html is None:
        return
    from cli.evaluate.plots import draw

    pictures = {assessment.benchmark.name: draw(assessment) for assessment in found.assessments}
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, drawn in pictures.items():
            for kind, png in drawn.items():
                (plots / f"{name}-{kind}.png").write_bytes(png)
        click.echo(f"wrote {sum(map(len, pictures.values()))} pictures to {plots}", err=True)
    if html is not None:
        html.write_text(page(found, pictures), encoding="utf-8")
        click.echo(f"wrote {html}", err=True)


def summary(found: Assessment) -> str:
    """A sentence: which prompts, and what the models alone are worth."""
    benchmark = found.benchmark
    left_out = f", {benchmark.left_out:,} left out" if benchmark.left_out else ""
    better = "strong" if found.all_strong >= found.all_weak else "weak"
    strong, weak = benchmark.pair
    return (
        f"{benchmark.name}: {len(benchmark):,} prompts{left_out}. All to weak ({weak}) {found.all_weak:.3f}, all to "
        f"strong ({strong}) {found.all_strong:.3f}; the better single model is {better}."
    )


def tables(found: Assessment) -> Iterator[Table]:
    """Of one set: the ranking, what it is worth, and quality at fixed dollars where costs are known."""
    name = found.benchmark.name
    yield Table("ranking", RANKING, [*map(_ranking, found.lines()), *_published(name)])
    yield Table("worth", WORTH, [*map(_worth, found.lines()), *_published_ratios(name)])
    if found.budgets is not None:
        columns = [
            "router",
            *(f"{100 * part:.0f} %: ${usd:,.4g}" for part, usd in zip(BUDGETS, found.budgets, strict=True)),
        ]
        rows = [[line.name, *map(_figure, line.at_budgets or [])] for line in found.lines()]
        yield Table("quality at fixed dollars, as parts of what lies between all-weak and all-strong", columns, rows)


def overhead(found: Evaluated) -> Table:
    """What the routers themselves cost, and what the paper's did."""
    rows: list[Sequence[str]] = [
        (name, found.methods[name], f"{speed.requests_per_second:,.0f}", f"{speed.usd_per_million_requests:,.4f}")
        for name, speed in found.overhead.items()
    ]
    rows += [("published", name, f"{rate:,.2f}", f"{usd:,.2f}") for name, (rate, usd) in OVERHEAD.items()]
    price = next(iter(found.overhead.values())).usd_per_hour
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


TITLES = {
    "strong-calls": "Quality against the share of strong calls",
    "dollars": "Quality against dollars",
    "calibration": "Calibration of the win rate",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.published { color: #777; font-style: italic }
figure { display: inline-block; margin: .5rem; max-width: 34rem } img { max-width: 100% }
"""
NOTES = (
    "APGR is the area under the share of the quality gap that is recovered, over the share of prompts that go to the "
    "strong model; 0.5 is chance. CPT 50 % is the least share of strong calls that recovers half of the gap. The cost "
    "ratio is what random routing costs for the same quality, over what the router does. Intervals hold 95 % of "
    "resampled sets of prompts; random's, 95 % of random rankings. Published rows are the paper's (arXiv 2406.18665), "
    "with other training data; its APGR is that of ten bins, its cost ratio that of strong calls."
)


def page(found: Evaluated, pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    """`pictures`: PNG files by set and kind. Every text is escaped: names come from files and the command line."""
    return "\n".join(_parts(found, pictures)) + "\n"


def _parts(found: Evaluated, pictures: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8"><title>Routers, evaluated</title>'
    yield f"<style>{STYLE}</style></head><body>"
    yield f"<h1>Routers, evaluated</h1><p>{escape(NOTES)}</p>"
    yield from (f"<p><strong>{escape(note)}</strong></p>" for note in found.notes)
    for assessment in found.assessments:
        name = assessment.benchmark.name
        yield f"<h2>{escape(name)}</h2><p>{escape(summary(assessment))}</p>"
        yield from map(_table, tables(assessment))
        for kind, png in pictures[name].items():
            yield _picture(TITLES[kind], png)
    yield f"<h2>Routing overhead</h2>{_table(overhead(found))}"
    yield f"<p>Seed {found.seed}.</p></body></html>"


def _picture(title: str, png: bytes) -> str:
    data, text = base64.b64encode(png).decode("ascii"), escape(title)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join(_row(row) for row in table.rows)
    return f"<table><caption>{escape(table.title)}</caption>\n<tr>{head}</tr>\n{rows}\n</table>"


def _row(row: object) -> str:
    assert isinstance(row, (list, tuple))
    style = ' class="published"' if str(row[0]).startswith("published") else ""
    return f"<tr{style}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
