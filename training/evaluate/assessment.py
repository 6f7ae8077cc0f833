"""Several routers on one evaluation set, side by side: figures, intervals, baselines, and the curves to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluate.benchmark_sets import Benchmark
from training.evaluate.dollars import Prices, cost_ratio, dollar_curve, quality_at
from training.evaluate.metrics import BINS, evaluate, has_gap, paired_interval, random_interval, routed

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]

RANDOM, ORACLE = "random routing", "oracle"  # no router may bear these names, `random` is one
LEVELS = (0.5, 0.8)  # of the gap, for CPT and the cost ratio
BUDGETS = (0.1, 0.25, 0.5, 0.75)  # of what lies between the costs of all-weak and all-strong
SHARES = np.linspace(0, 1, 21)  # at which curves are told and drawn
__all__ = ["BUDGETS", "ORACLE", "RANDOM", "Assessment", "Line", "assess"]


@dataclass(frozen=True, slots=True)
class Line:
    """A router's figures on a set. Figures of a ranking are None where strong is no better than weak; calibration, for
    baselines that give no win rate.

    `difference` is the 95 % interval of its APGR minus the first router's. `quality` and `pgr`, shape (21,), are at
    SHARES of strong calls; `at_budgets` is the quality at BUDGETS, where costs are known. To draw: `dollars`, a curve
    of dollars and quality, and `bins`, shape (bins, 4), those of `_bins`.
    """

    name: str
    apgr: float | None = None
    apgr_interval: tuple[float, float] | None = None
    apgr_ten_bins: float | None = None
    difference: tuple[float, float] | None = None
    cpt_50: float | None = None
    cpt_80: float | None = None
    cost_ratio_50: float | None = None
    cost_ratio_80: float | None = None
    calibration_error: float | None = None
    brier: float | None = None
    quality: Floats | None = None
    pgr: Floats | None = None
    at_budgets: list[float | None] | None = None
    bins: Floats | None = None
    dollars: Curve | None = None

    def as_dict(self) -> dict[str, Any]:
        values = {key: value for key, value in asdict(self).items() if key not in ("dollars", "bins")}
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in values.items()}


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is reported of a set. Qualities are on the set's own scale. `budgets` are BUDGETS in dollars."""

    benchmark: Benchmark
    usd_per_million: Prices
    all_weak: float
    all_strong: float
    routers: list[Line]
    random: Line
    oracle: Line
    budgets: list[float] | None

    @property
    def better_single(self) -> float:
        return max(self.all_weak, self.all_strong)

    def lines(self) -> list[Line]:
        return [*self.routers, self.random, self.oracle]

    def as_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark.name,
            "prompts": len(self.benchmark),
            "left_out": self.benchmark.left_out,
            "models": dict(zip(("strong", "weak"), self.benchmark.pair, strict=True)),
            "scale": list(self.benchmark.scale),
            "all_weak": self.all_weak,
            "all_strong": self.all_strong,
            "better_single": self.better_single,
            "usd_per_million_tokens": list(self.usd_per_million),
            "shares": SHARES.tolist(),
            "budgets_usd": self.budgets,
            "routers": [line.as_dict() for line in self.routers],
            "random": self.random.as_dict(),
            "oracle": self.oracle.as_dict(),
        }


def assess(
    benchmark: Benchmark, win_rates: Mapping[str, npt.ArrayLike], usd_per_million: Prices, *, seed: int = 0
) -> Assessment:
    """The figures of routers by name, whose win rates have shape (n,). The others are compared with the first, which
    there must be."""
    gain = benchmark.gain
    rates = {name: np.asarray(values_of_router, float) for name, values_of_router in win_rates.items()}
    first = next(iter(rates))
    routers = []
    for name, values_of_router in rates.items():
        line = _ranked(name, values_of_router, benchmark, usd_per_million, seed)
        if name != first and has_gap(gain):
            line = replace(line, difference=paired_interval(values_of_router, rates[first], gain, seed=seed))
        routers.append(line)
    return Assessment(
        benchmark,
        usd_per_million,
        all_weak=benchmark.reported(float(benchmark.weak.mean())),
        all_strong=benchmark.reported(float(benchmark.strong.mean())),
        routers=routers,
        random=_random(benchmark, usd_per_million, seed),
        oracle=_baseline(_ranked(ORACLE, gain, benchmark, usd_per_million, seed)),
        budgets=_budgets(benchmark),
    )


def _ranked(name: str, rates: Floats, benchmark: Benchmark, usd_per_million: Prices, seed: int) -> Line:
    """The figures of one ranking."""
    gain = benchmark.gain
    metrics = evaluate(rates, gain, seed=seed)
    share, quality = routed(rates, gain)
    at_shares = np.interp(SHARES, share, quality)
    ratios = [cost_ratio(rates, gain, level, usd_per_million) if has_gap(gain) else None for level in LEVELS]
    curve = dollar_curve(rates, benchmark) if benchmark.costs is not None else None
    low, high = benchmark.scale
    return Line(
        name,
        apgr=metrics.apgr,
        apgr_interval=metrics.apgr_interval,
        apgr_ten_bins=metrics.apgr_ten_bins,
        cpt_50=metrics.cpt_50,
        cpt_80=metrics.cpt_80,
        cost_ratio_50=ratios[0],
        cost_ratio_80=ratios[1],
        calibration_error=metrics.calibration_error,
        brier=metrics.brier,
        quality=low + (float(benchmark.weak.mean()) + at_shares) * (high - low),
        pgr=at_shares / quality[-1] if has_gap(gain) else None,
        at_budgets=_at_budgets(curve, benchmark),
        bins=_bins(rates, gain),
        dollars=None if curve is None else (curve[0], low + curve[1] * (high - low)),
    )


def _random(benchmark: Benchmark, usd_per_million: Prices, seed: int) -> Line:
    """What a random router gives in expectation, which is what one gives that tells no prompts apart."""
    line = _baseline(_ranked(RANDOM, np.zeros(len(benchmark)), benchmark, usd_per_million, seed))
    interval = random_interval(benchmark.gain, seed=seed) if has_gap(benchmark.gain) else None
    return replace(line, apgr_interval=interval)


def _baseline(line: Line) -> Line:
    """A ranking without win rates."""
    return replace(line, apgr_interval=None, calibration_error=None, brier=None, bins=None)


def _budgets(benchmark: Benchmark) -> list[float] | None:
    if benchmark.costs is None:
        return None
    strong, weak = benchmark.costs.sum(0).tolist()
    return [weak + part * (strong - weak) for part in BUDGETS]


def _at_budgets(curve: Curve | None, benchmark: Benchmark) -> list[float | None] | None:
    budgets = _budgets(benchmark)
    if curve is None or budgets is None:
        return None
    bought = [quality_at(curve, dollars) for dollars in budgets]
    return [None if quality is None else benchmark.reported(quality) for quality in bought]


def _bins(rates: Floats, gain: Floats) -> Floats:
    """Of ten bins of about as many prompts, none of which parts equal win rates: mean win rate, mean outcome, standard
    error of that, prompts.

    (Bins of equal width, by which the error is taken, show little: most routers' win rates fill but two or three.)
    """
    edges = np.unique(np.quantile(rates, np.linspace(0, 1, BINS + 1)))
    _, place = np.unique(np.searchsorted(edges[1:-1], rates, side="right"), return_inverse=True)
    count = np.bincount(place)
    outcome = (1 + gain) / 2
    rate, mean, square = (np.bincount(place, values) / count for values in (rates, outcome, outcome**2))
    return np.column_stack([rate, mean, np.sqrt(np.maximum(square - mean**2, 0) / count), count])
