"""What `routebatch train` prints: what was read and left out, how well the fit is calibrated, and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from routing_service.routers.registry import Router
    from training.data.decontamination import Decontamination
    from training.data.readers import Loaded
    from training.evaluate.metrics import Evaluation

LISTED = 10  # bad rows, models of a tier
SHOWN = ("apgr", "apgr_ten_bins", "cpt_50", "cpt_80", "calibration_error", "brier", "oracle")


def name_bad_rows(loaded: Loaded) -> None:
    for row in loaded.bad[:LISTED]:
        click.echo(f"left out: {row}", err=True)
    if loaded.counted["bad"] > LISTED:
        click.echo(f"left out: {loaded.counted['bad'] - LISTED:,} more bad rows", err=True)


def print_report(
    result: dict[str, Any],
    loaded: Loaded,
    left_out: Decontamination | None,
    router: Router,
    figures: Evaluation | None,
    as_json: bool,
) -> None:
    """`result` names what was made, of what."""
    from cli.output import print_json, print_table

    metadata: dict[str, Any] = getattr(router, "metadata", {})
    if as_json:
        bad = [{"file": row.file, "row": row.row, "reason": row.reason} for row in loaded.bad]
        held_out = figures.as_dict() if figures else None
        found = {"counted": loaded.counted, "bad": bad, "decontaminated": left_out and left_out.as_dict()}
        print_json({**result, **found, "held_out": held_out, "metadata": metadata})
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


def _left_out(found: Decontamination) -> str:
    similar = f"{found.similar:,} too similar" if found.encoder else "similar ones were not looked for"
    return f"{found.rows:,} rows: {found.same:,} prompts the same, {similar}"


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
