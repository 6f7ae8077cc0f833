"""The challenge of a re-fit: its candidates beside the router that serves, on what none of them was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from routing_service.errors import ScoringError
from routing_service.routers.random import RandomRouter
from routing_service.routers.registry import Router
from routing_service.settings import Settings
from training.data.labels import DataError
from training.evaluate.benchmark_sets import Benchmark
from training.evaluate.qini import qini
from training.progress import Progress
from training.refit.candidates import Candidate, Measured, fit_all, measured, without
from training.refit.champion import Champion
from training.refit.drift import excess_error
from training.refit.gate import Benchmarked, Primary, Verdict, decide
from training.refit.snapshot import Judged, Parts, Snapshot, split

LEAST_FOR_CALIBRATION = 100  # prompts: of fewer the error is nearly all chance

__all__ = ["LEAST_FOR_CALIBRATION", "Challenge", "hold"]


@dataclass(frozen=True, slots=True)
class Challenge:
    """The candidates, the best one first, what was measured of each, and the gate's verdict on the best.

    `excess` is the calibration error beyond chance on the hold-out, of the best candidate and of what serves; None
    where there is too little to tell. `figures`: all that was compared, as JSON.
    """

    candidates: list[Candidate]
    measured: list[Measured]
    verdict: Verdict
    excess: tuple[float | None, float | None]
    figures: dict[str, Any]


def hold(
    snapshot: Snapshot,
    now: Champion,
    benchmarks: Sequence[Benchmark],
    settings: Settings,
    directory: Path,
    progress: Progress,
) -> Challenge:
    """Fit the candidates into `directory` and compare. DataError where there is too little to fit on."""
    learning = settings.learning
    parts = split(snapshot, learning.hold_out, learning.seed)
    fitted, left_out = without(parts.fitted, benchmarks, settings, progress)
    fits, failed = fit_all(fitted, settings, directory, progress)

    def measure(router: Router) -> Measured:
        return measured(router, parts, benchmarks, snapshot.pair, snapshot.fingerprint(), learning.seed)

    candidates, new = [], []
    with progress("measuring", len(fits) + 1) as advance:
        old, trouble = _of_serving(now, measure)
        advance(1)
        for one in fits:
            try:
                new.append(measure(one.router))
                candidates.append(one)
            except ScoringError as error:
                failed[one.method] = str(error)
            advance(1)
    if not candidates:
        raise DataError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    primary, order, verdict = _compare(new, old, parts, settings)
    candidates, new = [candidates[i] for i in order], [new[i] for i in order]
    told = {
        "primary": primary,
        "gate": verdict.figures,
        "champion": {"router": now.name, "trouble": trouble, "evaluations": _shown(old)},
        "candidates": {one.method: _shown(evaluated) for one, evaluated in zip(candidates, new, strict=True)},
        "failed": failed,
        "fitted": {"prompts": len(fitted.prompts), "rows": len(fitted)},
        "held_out": {"prompts": len(parts.held), "live_pairs": len(parts.live)},
        "bad_rows": snapshot.bad,
        "decontamination": left_out.as_dict(),
    }
    return Challenge(candidates, new, verdict, (_excess(new[0], parts.held), _excess(old, parts.held)), told)


def _of_serving(now: Champion, measure: Callable[[Router], Measured]) -> tuple[Measured, str | None]:
    """What a candidate has to beat. A router that cannot score these models (its batches go unscored) is as good as a
    random one, and must not stand in the way of one that can."""
    try:
        old, trouble = measure(now.router), None
    except ScoringError as error:
        old, trouble = measure(RandomRouter()), str(error)
    known = {name: figure for name, figure in now.shown_elsewhere().items() if name in old.benchmarks}
    return replace(old, benchmarks=old.benchmarks | known), trouble


def _compare(
    candidates: Sequence[Measured], serving: Measured, parts: Parts, settings: Settings
) -> tuple[str, list[int], Verdict]:
    """The primary set, the candidates in the order of their Qini coefficient on it, and the verdict on the first.

    The primary set is the held-out pairs of live traffic where they are enough, else all of the hold-out.
    """
    learning = settings.learning
    on_live = len(parts.live) >= learning.least_pairs
    part = parts.live if on_live else parts.held
    rates = [candidate.live if on_live else candidate.held for candidate in candidates]
    qinis = [qini(of_one, part.gain, part.weight).value if len(part) else 0.0 for of_one in rates]
    order = np.argsort(-np.array(qinis), kind="stable").tolist()
    best = candidates[order[0]]
    verdict = decide(
        Primary(part.gain, part.weight, rates[order[0]], serving.live if on_live else serving.held),
        [Benchmarked(name, best.benchmarks[name], old) for name, old in serving.benchmarks.items()],
        margin=learning.benchmark_margin,
        candidates=len(candidates),
    )
    return "live pairs" if on_live else "hold-out", order, verdict


def _excess(measurement: Measured, part: Judged) -> float | None:
    return excess_error(measurement.held, part.gain) if len(part) >= LEAST_FOR_CALIBRATION else None


def _shown(measurement: Measured) -> dict[str, Any]:
    return {name: figures for name, (_, figures) in measurement.evaluations.items()}
