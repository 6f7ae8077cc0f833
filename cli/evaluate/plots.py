"""The pictures of `routebatch evaluate`: quality against strong calls, quality against dollars, calibration.

Importing this module needs matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.evaluate.assessment import ORACLE, RANDOM, SHARES, Assessment, Line
from training.evaluate.dollars import blended
from training.evaluate.intervals import standard_errors

SIZE, DPI = (7, 4.5), 130  # inches, dots an inch
STYLES = {RANDOM: ("--", "grey"), ORACLE: (":", "black")}
LONGEST_NAME = 40  # characters of a legend


def draw(assessment: Assessment) -> dict[str, bytes]:
    """PNG files by kind."""
    kinds: dict[str, Callable[[Axes, Assessment], None]] = {
        "strong-calls": _strong_calls,
        "dollars": _dollars,
        "calibration": _calibration,
    }
    return {kind: _png(assessment, drawn) for kind, drawn in kinds.items()}


def _png(assessment: Assessment, drawn: Callable[[Axes, Assessment], None]) -> bytes:
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn(axes, assessment)
    axes.set_title(f"{assessment.benchmark.name}, {len(assessment.benchmark):,} prompts")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def _strong_calls(axes: Axes, assessment: Assessment) -> None:
    for line in assessment.lines():
        assert line.quality is not None
        _plot(axes, line, 100 * SHARES, line.quality)
    axes.set_xlabel("calls to the strong model, %")
    axes.set_ylabel("quality")


def _dollars(axes: Axes, assessment: Assessment) -> None:
    """By the costs of the recorded answers; where none are known, by the share of strong calls at mean prices."""
    for line in assessment.lines():
        if line.dollars is not None:
            _plot(axes, line, *line.dollars)
        else:
            assert line.quality is not None
            _plot(axes, line, blended(SHARES, assessment.usd_per_million), line.quality)
    known = assessment.benchmark.costs is not None
    axes.set_xlabel(
        "dollars for all prompts" if known else "dollars a million tokens, if all answers are of one length"
    )
    axes.set_ylabel("quality")


def _calibration(axes: Axes, assessment: Assessment) -> None:
    """Outcomes of tenths of the prompts, by win rate, with the 95 % interval of each mean."""
    for line in assessment.routers:
        assert line.bins is not None
        rate, outcome, error, _ = line.bins.T
        axes.errorbar(rate, outcome, yerr=standard_errors() * error, marker="o", capsize=2, label=_label(line.name))
    low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], linestyle="--", color="grey", label="calibrated")
    axes.set_xlabel("win rate")
    axes.set_ylabel("outcome, ties as half")


def _plot(axes: Axes, line: Line, x: object, y: object) -> None:
    style, colour = STYLES.get(line.name, ("-", None))
    axes.plot(x, y, linestyle=style, color=colour, label=_label(line.name))  # type: ignore[arg-type]


def _label(name: str) -> str:
    """A name as it is: matplotlib reads what stands between dollar signs as mathematics."""
    short = name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}"
    return short.replace("$", r"\$")
