"""PURE: qualities, costs and a budget in, a plan out. Which requests of a batch deserve the strong model.

Requests are ranked by gain per extra dollar (ties by line) and upgraded from the top until the budget ends; the ratio
at the cut is the shadow price. A plan is kept as two numbers, and this rule gives every request's model back from them:

    upgraded = ratio > shadow_price or (ratio == shadow_price and line <= cut_line)

Units: costs in nano-dollars, gains in [-1, 1], ratios in gain per dollar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NANO = 1_000_000_000
LAST_LINE = 2**31 - 1

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `upgraded` says of each request follows from shadow price and cut line by the rule above."""

    shadow_price: float  # 0 when the budget does not bind, +inf when nothing is upgraded
    cut_line: int
    upgraded: Bools
    expected_cost: int
    expected_gain: float


def allocate(cost: npt.ArrayLike, quality: npt.ArrayLike, budget: int, line: npt.ArrayLike) -> Plan:
    """The most expected gain whose expected cost fits the budget.

    `cost` and `quality`: shape (n, m), the cheapest model first; `line`: shape (n,), unique. ValueError for m > 2.
    """
    costs, qualities, lines = np.asarray(cost, np.int64), np.asarray(quality, np.float64), np.asarray(line, np.int64)
    if costs.shape[1] == 1:
        costs, qualities = np.repeat(costs, 2, axis=1), np.repeat(qualities, 2, axis=1)
    gain = gains(qualities)
    return cut(ratios(gain, costs), gain, costs[:, 0], costs[:, 1] - costs[:, 0], lines, budget)


def gains(quality: npt.NDArray[np.floating]) -> Floats:
    """What the strong model's answer is expected to be better by, shape (n,). ValueError for more than two models."""
    if quality.shape[1] > 2:
        raise ValueError(f"a plan has one or two candidates, not {quality.shape[1]}")
    return 2.0 * (quality[:, -1].astype(np.float64) - quality[:, 0])


def ratios(gain: Floats, cost: Ints) -> Floats:
    """Gain per extra dollar: +inf where a gain costs nothing more, -inf where there is no gain."""
    extra = (cost[:, -1] - cost[:, 0]).astype(np.float64) / NANO
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(extra > 0, gain / extra, np.inf)
    return np.where(gain > 0, ratio, -np.inf)


def cut(ratio: Floats, gain: Floats, base: Ints, extra: Ints, line: Ints, budget: int) -> Plan:
    """Upgrade down the ranking until the budget ends. All arrays of shape (n,).

    `base` is what a request costs anyway, `extra` what an upgrade adds. A ratio of 0 or less is never upgraded.
    """
    order = _ranked(ratio, line, ratio > 0)
    free = int(np.searchsorted(-ratio[order], -np.inf, side="right"))  # +inf: costs nothing more, or is given
    spent = int(base.sum()) + int(extra[order[:free]].sum())
    taken = free + int(np.searchsorted(np.cumsum(extra[order[free:]]), budget - spent, side="right"))
    if taken == order.size:
        return _plan(0.0, 0, order, gain, base, extra)
    return _cut_after(taken, order, ratio, gain, base, extra, line)


def cut_share(ratio: Floats, gain: Floats, base: Ints, extra: Ints, line: Ints, share: float) -> Plan:
    """Upgrade the best `share` of the requests that have a finite ratio, whatever it costs."""
    order = _ranked(ratio, line, np.isfinite(ratio))
    taken = int(share * order.size + 0.5)
    return _cut_after(taken, order, ratio, gain, base, extra, line)


def cut_threshold(ratio: Floats, gain: Floats, base: Ints, extra: Ints, threshold: float) -> Plan:
    """Upgrade every request whose ratio (there: its win rate) reaches the threshold."""
    return _plan(threshold, LAST_LINE, np.flatnonzero(ratio >= threshold), gain, base, extra)


def _ranked(ratio: Floats, line: Ints, eligible: Bools) -> npt.NDArray[np.intp]:
    at = np.flatnonzero(eligible)
    return at[np.lexsort((line[at], -ratio[at]))]


def _cut_after(
    taken: int, order: npt.NDArray[np.intp], ratio: Floats, gain: Floats, base: Ints, extra: Ints, line: Ints
) -> Plan:
    if taken == 0:
        return _plan(float("inf"), 0, order[:0], gain, base, extra)
    last = order[taken - 1]
    return _plan(float(ratio[last]), int(line[last]), order[:taken], gain, base, extra)


def _plan(
    shadow_price: float, cut_line: int, chosen: npt.NDArray[np.intp], gain: Floats, base: Ints, extra: Ints
) -> Plan:
    upgraded = np.zeros(base.size, dtype=np.bool_)
    upgraded[chosen] = True
    cost = int(base.sum()) + int(extra[chosen].sum())
    return Plan(shadow_price, cut_line, upgraded, cost, float(gain[chosen].sum()))
