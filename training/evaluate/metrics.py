"""How good a ranking of prompts is: RouteLLM's metrics (arXiv 2406.18665, section 2.2), in plain numpy.

Every function takes `scores`, shape (n,): the higher, the sooner a prompt goes to the strong model; and `gain`, shape
(n,): the quality of strong minus weak on it. PGR, the performance gap recovered when a share c of the prompts goes to
strong, is the gain of those prompts over the gain of all. It is defined only where strong is better on the whole:
elsewhere the functions raise ValueError. Prompts of one score are one step, linearly interpolated, so that the order
of the rows never matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Metric = Callable[[Floats, Floats], float]

BINS = 10
LEAST_GAP = 1e-9  # a mean gain below this is rounding
DRAWS = 200
PAIRED_DRAWS = 1000  # decisions hang on the lower end
INTERVAL = (0.025, 0.975)  # 95 %


def routed(scores: npt.ArrayLike, gain: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The curve of a ranking: shares c from 0 to 1, and the mean quality over that of all-weak, a point for every
    distinct cut. It is defined whichever model is better."""
    score, value = _checked(scores, gain)
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])  # the last row of each run of ties
    return np.r_[0.0, (ends + 1) / len(score)], np.r_[0.0, np.cumsum(value[order])[ends] / len(score)]


def recovered(scores: npt.ArrayLike, gain: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The PGR curve: shares c from 0 to 1 and their PGR, a point for every distinct cut."""
    _gap(_checked(scores, gain)[1])
    share, quality = routed(scores, gain)
    return share, quality / quality[-1]


def apgr(scores: npt.ArrayLike, gain: npt.ArrayLike) -> float:
    """The area under PGR, exactly."""
    share, pgr = recovered(scores, gain)
    return float(np.trapezoid(pgr, share))


def apgr_ten_bins(scores: npt.ArrayLike, gain: npt.ArrayLike) -> float:
    """The area as RouteLLM's code takes it, for comparison with published figures: by the cuts at ten quantile bins'
    edges and the two ends."""
    score, value = _checked(scores, gain)
    total = _gap(value)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, BINS + 1)))
    chosen = score[None, :] >= edges[:, None]
    share = np.r_[0.0, chosen.mean(axis=1)[::-1], 1.0]
    pgr = np.r_[0.0, ((chosen * value).sum(axis=1) / total)[::-1], 1.0]
    return float(np.trapezoid(pgr, share))


def cpt(scores: npt.ArrayLike, gain: npt.ArrayLike, level: float) -> float:
    """The least share to strong at which PGR reaches `level`, interpolated. Right for curves that fall in between."""
    share, pgr = recovered(scores, gain)
    if level <= 0:
        return 0.0
    if level > pgr.max():
        raise ValueError(f"PGR never reaches {level:g}")
    reached = int(np.argmax(pgr >= level))  # the first; the point before it lies below
    before = reached - 1
    part = (level - pgr[before]) / (pgr[reached] - pgr[before])
    return float(share[before] + part * (share[reached] - share[before]))


def oracle(gain: npt.ArrayLike, metric: Metric = apgr) -> float:
    """The metric of the best ranking there is: by the gain itself."""
    value = np.asarray(gain, dtype=float)
    return metric(value, value)


def random_interval(
    gain: npt.ArrayLike, *, metric: Metric = apgr, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Where the metric of a random ranking lies in 95 % of cases. The mean of APGR is 0.5."""
    value = np.asarray(gain, dtype=float)
    rng = np.random.default_rng(seed)
    draws_of_metric = [metric(rng.random(len(value)), value) for _ in range(draws)]
    low, high = np.quantile(draws_of_metric, INTERVAL)
    return float(low), float(high)


def bootstrap_interval(
    scores: npt.ArrayLike, gain: npt.ArrayLike, *, metric: Metric = apgr, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """A 95 % interval of the metric over resampled prompts; samples in which strong is no better do not count."""
    score, value = _checked(scores, gain)
    resampled = [metric(score[rows], value[rows]) for rows in _samples(value, draws, seed)]
    low, high = np.quantile(resampled, INTERVAL)
    return float(low), float(high)


def paired_interval(
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    gain: npt.ArrayLike,
    *,
    metric: Metric = apgr,
    draws: int = PAIRED_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """A 95 % interval of the metric of a minus that of b. Both are taken on the same resampled prompts, so that what
    makes a sample easy cancels out: it is far narrower than the intervals of the two."""
    a, value = _checked(scores_a, gain)
    b, _ = _checked(scores_b, gain)
    differences = [metric(a[rows], value[rows]) - metric(b[rows], value[rows]) for rows in _samples(value, draws, seed)]
    low, high = np.quantile(differences, INTERVAL)
    return float(low), float(high)


def brier(win_rates: npt.ArrayLike, gain: npt.ArrayLike) -> float:
    """Mean squared error of win rates against outcomes, which are (1 + gain) / 2: ties count as half a win."""
    rate, value = _checked(win_rates, gain)
    return float(np.mean((rate - (1 + value) / 2) ** 2))


def calibration_error(win_rates: npt.ArrayLike, gain: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of win rate and outcome over bins of equal width in [0, 1]."""
    rate, value = _checked(win_rates, gain)
    place = np.clip((rate * bins).astype(int), 0, bins - 1)
    difference = np.bincount(place, rate - (1 + value) / 2, minlength=bins)
    return float(np.abs(difference).sum() / len(rate))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one router on one set of labels. Those of the ranking are None where strong is no better."""

    prompts: int
    mean_gain: float
    calibration_error: float
    brier: float
    apgr: float | None = None
    apgr_ten_bins: float | None = None
    apgr_interval: tuple[float, float] | None = None
    cpt_50: float | None = None
    cpt_80: float | None = None
    random_interval: tuple[float, float] | None = None
    oracle: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(win_rates: npt.ArrayLike, gain: npt.ArrayLike, *, seed: int = 0) -> Evaluation:
    """All figures of win rates on labels."""
    rate, value = _checked(win_rates, gain)
    base = (len(rate), float(value.mean()), calibration_error(rate, value), brier(rate, value))
    if not has_gap(value):
        return Evaluation(*base)
    return Evaluation(
        *base,
        apgr=apgr(rate, value),
        apgr_ten_bins=apgr_ten_bins(rate, value),
        apgr_interval=bootstrap_interval(rate, value, seed=seed),
        cpt_50=cpt(rate, value, 0.5),
        cpt_80=cpt(rate, value, 0.8),
        random_interval=random_interval(value, seed=seed),
        oracle=oracle(value),
    )


def has_gap(gain: Floats) -> bool:
    """Whether strong is better than weak on the whole, so that there is something to recover."""
    return float(gain.mean()) > LEAST_GAP


def _checked(scores: npt.ArrayLike, gain: npt.ArrayLike) -> tuple[Floats, Floats]:
    score, value = np.asarray(scores, dtype=float), np.asarray(gain, dtype=float)
    if score.ndim != 1 or score.shape != value.shape or not len(score):
        raise ValueError("scores and gain must be two lists of one length, and not empty")
    if not (np.isfinite(score).all() and np.isfinite(value).all()):
        raise ValueError("scores and gain must be finite")
    return score, value


def _samples(gain: Floats, draws: int, seed: int) -> list[Rows]:
    """Rows drawn with replacement, of the samples that have a gap. ValueError where there is none."""
    _gap(gain)
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(gain), size=len(gain)) for _ in range(draws))
    samples = [rows for rows in drawn if has_gap(gain[rows])]
    if not samples:
        raise ValueError("in no sample is strong better than weak")
    return samples


def _gap(gain: Floats) -> float:
    if not has_gap(gain):
        raise ValueError("strong is no better than weak here: there is no gap to recover")
    return float(gain.sum())
