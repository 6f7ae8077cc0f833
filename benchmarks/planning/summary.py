"""Means over splits of what policies buy, with 95 % intervals: paired differences, and dollars for equal quality.

Two intervals stand by a difference. The first is over the splits: how far the mean would move if these prompts were
split again, by Student's t. The second is for other prompts of the kind: splits of the same prompts are not
independent, which Nadeau and Bengio (2003) correct by a variance of 1 / splits + tested / fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from scipy.stats import t as student

Vector = npt.NDArray[np.float64]

SHARES = (0.10, 0.25, 0.50, 0.75)  # of the span from all-weak to all-strong
GRID: Vector = np.arange(401) / 400  # holds every one of SHARES
AT = [round(share * 400) for share in SHARES]
RIVALS = ("threshold", "cheapest-first")
HALVES = 1.0  # tested / fitted


@dataclass(frozen=True, slots=True)
class Curves:
    """One split: points over all-weak at each share of GRID by policy; dollars a thousand requests of all-weak and
    all-strong; points of all-strong."""

    points: dict[str, Vector]
    weak_usd: float
    strong_usd: float
    strong_points: float


def summary(splits: list[Curves]) -> dict[str, Any]:
    """Everything that is shown of a workload, as JSON."""
    points = {p: _at_budgets([s.points[p] for s in splits]) for p in splits[0].points}
    weak, strong = np.mean([s.weak_usd for s in splits]), np.mean([s.strong_usd for s in splits])
    return {
        "splits": len(splits),
        "all_weak_usd": float(weak),
        "all_strong_usd": float(strong),
        "all_strong_points": float(np.mean([s.strong_points for s in splits])),
        "points": {policy: _columns(values) for policy, values in points.items()},
        "plan_minus": {p: _columns(points["plan"] - values) for p, values in points.items() if p != "plan"},
        "plan_minus_better": _columns(points["plan"] - _better(points)),
        "equal_quality": equal_quality(splits, float(strong - weak)),
    }


def _at_budgets(curves: list[Vector]) -> Vector:
    """Points at each of SHARES and their mean, shape (splits, budgets + 1)."""
    points = np.array(curves)[:, AT]
    return np.column_stack([points, points.mean(1)])


def _better(points: dict[str, Vector]) -> Vector:
    """By column the rival that is better in the mean over splits, shape (splits, budgets + 1)."""
    first, second = (points[rival] for rival in RIVALS)
    return np.where(first.mean(0) >= second.mean(0), first, second)


def _columns(values: Vector) -> dict[str, Any]:
    """By column, a list a key: the mean over rows (splits), its interval, and that for other prompts."""
    n = len(values)
    spread = values.std(0, ddof=1) * student.ppf(0.975, n - 1)
    return {
        "mean": values.mean(0).tolist(),
        "interval": (spread * np.sqrt(1 / n)).tolist(),
        "interval_other_prompts": (spread * np.sqrt(1 / n + HALVES)).tolist(),
    }


def equal_quality(splits: list[Curves], span_usd: float) -> dict[str, list[float]]:
    """What the plan spends to be as good as the threshold is at each budget.

    `share`: of the threshold's dollars beyond all-weak, and its interval over splits (jackknife); `plan_usd` and
    `threshold_usd`: beyond all-weak, a thousand requests. By the mean curves: one split's ups and downs reach any
    quality too early.
    """
    plan, rival = (np.array([s.points[p] for s in splits]) for p in ("plan", "threshold"))
    n = len(splits)
    whole = _dollars(plan.mean(0), rival.mean(0))
    others = ~np.eye(n, dtype=bool)
    left_out = np.array([_dollars(plan[o].mean(0), rival[o].mean(0)) for o in others])
    spread = np.sqrt((n - 1) * left_out.var(0))
    budgets = np.array(SHARES)
    return {
        "share": (whole / budgets).tolist(),
        "interval": (spread * student.ppf(0.975, n - 1) / budgets).tolist(),
        "plan_usd": (whole * span_usd).tolist(),
        "threshold_usd": (budgets * span_usd).tolist(),
    }


def _dollars(plan: Vector, rival: Vector) -> Vector:
    """Shares of the span at which the plan's curve first reaches the rival's points at SHARES."""
    risen = np.maximum.accumulate(plan)
    at = np.clip(np.searchsorted(risen, rival[AT], side="left"), 1, len(GRID) - 1)
    rise = np.maximum(risen[at] - risen[at - 1], 1e-12)
    part = np.clip((rival[AT] - risen[at - 1]) / rise, 0, 1)
    shares: Vector = GRID[at - 1] + part * (GRID[at] - GRID[at - 1])
    return shares


def tables(name: str, result: dict[str, Any]) -> list[Table]:
    """Points of every policy; the plan less each of them; dollars for equal quality."""
    heads = [f"{share:.0%}" for share in SHARES]
    span = f"${result['all_weak_usd']:.2f} to ${result['all_strong_usd']:.2f} a thousand requests"
    title = f"{name}: {span}, all-strong {result['all_strong_points']:+.2f} points, {result['splits']} splits"
    points = Table("points over all-weak", *heads, "mean", title=title)
    for policy, means in result["points"].items():
        points.add_row(policy, *(f"{m:.2f} ± {i:.2f}" for m, i in zip(means["mean"], means["interval"], strict=True)))
    less = Table("plan minus", *heads, "mean", title="± over these splits (± for other prompts)")
    rows = {p: result["plan_minus"][p] for p in (*RIVALS, "random", "oracle")}
    for policy, means in (rows | {"the better of the first two": result["plan_minus_better"]}).items():
        cells = zip(means["mean"], means["interval"], means["interval_other_prompts"], strict=True)
        less.add_row(policy, *(f"{m:+.2f} ± {i:.2f} ({o:.2f})" for m, i, o in cells))
    equal = result["equal_quality"]
    dollars = Table("for the threshold's quality", *heads, title="dollars beyond all-weak, a thousand requests")
    dollars.add_row("threshold", *(f"${usd:.3f}" for usd in equal["threshold_usd"]))
    dollars.add_row("plan", *(f"${usd:.3f}" for usd in equal["plan_usd"]))
    shares = zip(equal["share"], equal["interval"], strict=True)
    dollars.add_row("of the threshold's", *(f"{s:.0%} ± {100 * i:.0f}" for s, i in shares))
    return [points, less, dollars]
