"""PURE: increments and a budget in, a plan out. Which model answers each request of a batch.

The increments of all requests are ranked by gain per dollar (ties by line) and taken from the top until the budget
ends; the ratio at the cut is the shadow price. A plan is kept as two numbers, from which `hull.chosen` gives every
request's model back. Nothing is split between models: what a linear program would buy with the rest of the budget, a
part of the next increment, is the gap that a plan reports.

Units: costs in nano-dollars, gains in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routing_service.planning.hull import NANO, Floats, Increments, Ints, Small, chosen, increments, steps

DAMPING = 1.5


@dataclass(frozen=True, slots=True)
class Plan:
    """`model`, shape (n,), follows from shadow price and cut line by `hull.chosen`."""

    shadow_price: float  # 0 where the budget does not bind, +inf where nothing is upgraded
    cut_line: int
    model: Small
    expected_cost: int
    expected_gain: float
    gap: float  # what the best fractional plan gains more, at most: below one increment


@dataclass(frozen=True, slots=True)
class Ranking:
    """The increments of a batch in the order in which money buys them; made once, cut at any budget.

    `base`: what the cheapest model's answers cost in all. `before` and `gained`: extra cost and gain of the first k
    increments, shape (k + 1,).
    """

    step: Floats
    line: Ints
    ranked: Increments
    base: int
    spent: Ints
    gained: Floats

    @classmethod
    def of(
        cls, cost: npt.ArrayLike, quality: npt.ArrayLike, line: npt.ArrayLike, step: Floats | None = None
    ) -> Ranking:
        """`cost` and `quality`: shape (n, m), the cheapest model first; `line`: shape (n,), unique.

        `step` is what `hull.steps` gives; None: reckoned here, by the plain ratio.
        """
        costs, qualities, lines = np.asarray(cost, np.int64), np.asarray(quality), np.asarray(line, np.int64)
        reached = steps(costs, qualities) if step is None else step
        found = increments(reached, costs, qualities)
        order = np.lexsort((lines[found.row], -found.ratio))
        ranked = Increments(*(getattr(found, name)[order] for name in Increments.__slots__))
        spent = np.concatenate([[0], np.cumsum(ranked.extra)])
        gained = np.concatenate([[0.0], np.cumsum(ranked.gain)])
        return cls(reached, lines, ranked, int(costs[:, 0].sum()), spent, gained)

    def within(self, budget: int) -> Plan:
        """The most gain whose expected cost fits the budget; what costs nothing more is always taken."""
        free = int(np.searchsorted(-self.ranked.ratio, -np.inf, side="right"))
        taken = free + int(np.searchsorted(self.spent[free + 1 :], budget - self.base, side="right"))
        if taken == len(self.ranked):
            return self._plan(taken, 0.0, 0)
        left = max(0, budget - self.base - int(self.spent[taken]))
        part = left / int(self.ranked.extra[taken])
        return self._cut(taken, part * float(self.ranked.gain[taken]))

    def reaching(self, share: float) -> Plan:
        """The least cost whose gain is at least that share of all the gain there is to buy."""
        wanted = share * self.gained[-1]
        free = int(np.searchsorted(-self.ranked.ratio, -np.inf, side="right"))
        taken = max(free, int(np.searchsorted(self.gained, wanted * (1 - 1e-12), side="left")))
        return self._plan(taken, 0.0, 0) if taken == len(self.ranked) else self._cut(taken, 0.0)

    def _cut(self, taken: int, gap: float) -> Plan:
        if taken == 0:
            return self._plan(0, float("inf"), 0, gap)
        last = taken - 1
        return self._plan(taken, float(self.ranked.ratio[last]), int(self.line[self.ranked.row[last]]), gap)

    def _plan(self, taken: int, shadow_price: float, cut_line: int, gap: float = 0.0) -> Plan:
        model = chosen(self.step, self.line, shadow_price, cut_line)
        cost = self.base + int(self.spent[taken])
        return Plan(shadow_price, cut_line, model, cost, float(self.gained[taken]), gap)


def allocate(cost: npt.ArrayLike, quality: npt.ArrayLike, budget: int, line: npt.ArrayLike, power: float = 1.0) -> Plan:
    """The most expected gain whose expected cost fits the budget. Shapes as in `Ranking.of`."""
    costs, qualities = np.asarray(cost, np.int64), np.asarray(quality)
    return Ranking.of(costs, qualities, line, steps(costs, qualities, power)).within(budget)


def damping(extra: Ints) -> float:
    """How much predicted extra costs should count: the power of `hull.steps`, from 0 to 1.

    Predicted costs err. Where they differ by much (1.5 standard deviations reach the mean) they count in full, so that
    the ranking is gain per dollar; where they hardly differ the differences are mostly error, and gain decides.
    """
    positive = extra[extra > 0].astype(np.float64) / NANO
    if not len(positive):
        return 1.0
    return float(min(1.0, DAMPING * positive.std() / positive.mean()))
