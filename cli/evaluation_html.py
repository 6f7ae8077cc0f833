"""The report of `routebatch evaluate` as one HTML file: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape

from cli.evaluation_report import Table, overhead, summary, tables
from cli.evaluation_run import Evaluated

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
