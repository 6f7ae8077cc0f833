"""The gate: whether a fitted candidate may replace the router that serves. Pure: figures in, a verdict out.

A candidate is promoted only if all of these hold on the primary set, prompts that it was not fitted on and whose gain
(quality of strong minus weak) is known:

- It beats what serves: the lower 95 % bound of the difference of their Qini coefficients is above 0. Where
  several candidates were fitted, the bound holds for all of them together: the best of many is good by chance, too.
- It beats random: the lower 95 % bound of its Qini coefficient is above 0. Where strong is better, that is an APGR
  above 0.5; where it is not, APGR says nothing and the Qini coefficient does.
- It does not fall behind the better single model: with a prompt going to strong where its win rate is above 1/2, a cut
  that is known beforehand, quality is not below that of all-strong or all-weak beyond the 95 % interval. (Most good
  routers do not exceed all-strong, they come near it for less; rates that are turned around or far off fail here.)

And no benchmark's APGR may fall by more than the margin. Too little evidence is a refusal, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluate.qini import Estimate, difference, effective, mean, qini

Floats = npt.NDArray[np.float64]

LEAST_PROMPTS = 50  # of equal weight: with fewer the intervals are not to be trusted
CUT = 0.5
LEAST_GAP = 1e-9

__all__ = ["LEAST_PROMPTS", "Benchmarked", "Primary", "Verdict", "decide"]


@dataclass(frozen=True, slots=True)
class Primary:
    """n prompts, each once: gain in [-1, 1], weight > 0, and both routers' win rates, all of shape (n,).

    ValueError where the shapes differ, a number is not finite, or a weight is not above 0.
    """

    gain: Floats
    weight: Floats
    candidate: Floats
    active: Floats

    def __post_init__(self) -> None:
        columns = (self.gain, self.weight, self.candidate, self.active)
        if len({column.shape for column in columns}) != 1 or self.gain.ndim != 1:
            raise ValueError("gain, weight and both routers' win rates must be lists of one length")
        if not all(np.isfinite(column).all() for column in columns) or not (self.weight > 0).all():
            raise ValueError("gain, weight and win rates must be finite, weights above 0")


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """Both routers' APGR on a fixed set."""

    name: str
    candidate: float
    active: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reasons`: what speaks against the candidate, every one; or, if it is promoted, what speaks for it. `figures`:
    everything that was compared, as JSON."""

    promote: bool
    reasons: list[str]
    figures: dict[str, Any]


def decide(
    primary: Primary, benchmarks: Sequence[Benchmarked] = (), *, margin: float = 0.0, candidates: int = 1
) -> Verdict:
    """The verdict on a candidate that is the best of so many. `margin`: by how much a benchmark's APGR may fall."""
    figures: dict[str, Any] = {
        "prompts": len(primary.gain),
        "candidates": candidates,
        "margin": margin,
        "benchmarks": {b.name: {"candidate": b.candidate, "active": b.active} for b in benchmarks},
    }
    worth = effective(primary.weight) if len(primary.gain) else 0.0
    if worth < LEAST_PROMPTS:
        reason = f"too little data: {len(primary.gain)} prompts, worth {worth:.0f} of equal weight, are fewer than"
        return Verdict(False, [f"{reason} {LEAST_PROMPTS}"], figures)
    against: list[str] = []
    in_favour: list[str] = []
    for holds, reason in (
        _beats_active(primary, candidates, figures),
        _beats_random(primary, candidates, figures),
        _keeps_up(primary, figures),
        *(_holds(benchmark, margin) for benchmark in benchmarks),
    ):
        (in_favour if holds else against).append(reason)
    return Verdict(not against, against or in_favour, figures)


def _beats_active(primary: Primary, candidates: int, figures: dict[str, Any]) -> tuple[bool, str]:
    estimate = difference(primary.candidate, primary.active, primary.gain, primary.weight)
    figures["active"] = _ranking(qini(primary.active, primary.gain, primary.weight), primary, 1)
    figures["difference"] = _shown(estimate, candidates)
    low, high = estimate.interval(candidates)
    told = f"its Qini coefficient less the active router's is {estimate.value:.4f} ({low:.4f} to {high:.4f})"
    return (True, f"better than the active router: {told}") if low > 0 else (False, f"not shown to be better: {told}")


def _beats_random(primary: Primary, candidates: int, figures: dict[str, Any]) -> tuple[bool, str]:
    estimate = qini(primary.candidate, primary.gain, primary.weight)
    figures["candidate"] = _ranking(estimate, primary, candidates)
    low, high = estimate.interval(candidates)
    told = f"its Qini coefficient is {estimate.value:.4f} ({low:.4f} to {high:.4f})"
    return (True, f"better than random: {told}") if low > 0 else (False, f"not shown to be better than random: {told}")


def _keeps_up(primary: Primary, figures: dict[str, Any]) -> tuple[bool, str]:
    strong_is_better = float(primary.weight @ primary.gain) > 0
    to_strong = primary.candidate > CUT
    estimate = mean(primary.gain * (to_strong.astype(float) - strong_is_better), primary.weight)
    single = "all-strong" if strong_is_better else "all-weak"
    share = float(np.average(to_strong, weights=primary.weight))
    figures["single"] = {"better": single, "share_to_strong": share, **_shown(estimate, 1)}
    low, high = estimate.interval()
    told = f"cut at win rate 1/2 its quality less {single}'s is {estimate.value:.4f} ({low:.4f} to {high:.4f})"
    if high >= 0:
        return True, f"not behind the better single model: {told}"
    return False, f"behind the better single model: {told}"


def _holds(benchmark: Benchmarked, margin: float) -> tuple[bool, str]:
    told = f"{benchmark.name}'s APGR goes from {benchmark.active:.4f} to {benchmark.candidate:.4f}"
    if benchmark.active - benchmark.candidate <= margin:
        return True, told
    return False, f"{told}, a fall of more than {margin:g}"


def _ranking(ranking: Estimate, primary: Primary, tests: int) -> dict[str, Any]:
    gap = float(np.average(primary.gain, weights=primary.weight))
    return {"qini": _shown(ranking, tests), "apgr": 0.5 + ranking.value / gap if gap > LEAST_GAP else None}


def _shown(estimate: Estimate, tests: int) -> dict[str, Any]:
    return {"value": estimate.value, "interval": list(estimate.interval(tests))}
