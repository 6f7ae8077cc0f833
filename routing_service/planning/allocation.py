"""PURE: increments and a budget in, a plan out. Which model answers each request of a batch.

The increments of all requests are ranked by gain per dollar (ties by line) and taken from the top until the budget
ends; the ratio at the cut is the shadow price. A plan is kept as two numbers, from which `hull.chosen` gives every
request's model back. Nothing is split between models: what a linear program would buy with the rest of the budget, a
part of the next increment, is the gap that a plan reports. (Where costs are damped, the program's costs are as well.)

Units: costs in nano-dollars, gains in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from routing_service.planning.hull import Damping, Floats, Increments, Ints, Small, chosen, increments, steps

DAMPING = 1.5
LAST_LINE = 2**31 - 1


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

    `base`: what the cheapest model's answers cost in all. `spent` and `gained`: extra cost and gain of the first k
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

        `step`, of the same shape, is what requests are ranked by; None: gain per dollar (`hull.steps`). An increment
        that a step other than +inf leads to never counts as saving money, whatever costs say.
        """
        costs, qualities, lines = np.asarray(cost, np.int64), np.asarray(quality), np.asarray(line, np.int64)
        reached = steps(costs, qualities) if step is None else step
        unranked = increments(reached, costs, qualities)
        order = np.lexsort((lines[unranked.row], -unranked.ratio))
        ranked = Increments(*(getattr(unranked, name)[order] for name in Increments.__slots__))
        if step is not None:
            ranked = replace(
                ranked, extra=np.where(np.isposinf(ranked.ratio), ranked.extra, np.maximum(ranked.extra, 0))
            )
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
        extra = int(self.ranked.extra[taken])  # may be 0 where a given step did not come of these costs
        part = left / extra if extra else 0.0
        return self._cut(taken, part * float(self.ranked.gain[taken]))

    def reaching(self, share: float) -> Plan:
        """The least cost whose gain is at least that share of all the gain there is to buy."""
        wanted = share * self.gained[-1]
        free = int(np.searchsorted(-self.ranked.ratio, -np.inf, side="right"))
        taken = max(free, int(np.searchsorted(self.gained, wanted * (1 - 1e-12), side="left")))
        return self._plan(taken, 0.0, 0) if taken == len(self.ranked) else self._cut(taken, 0.0)

    def share(self, share: float) -> Plan:
        """The best `share` of the increments that are not taken anyway, whatever they cost."""
        free = int(np.searchsorted(-self.ranked.ratio, -np.inf, side="right"))
        taken = int(share * (len(self.ranked) - free) + 0.5)
        return self._cut(free + taken, 0.0) if taken else self._plan(free, float("inf"), LAST_LINE)

    def threshold(self, threshold: float) -> Plan:
        """Every increment whose ratio (there: a win rate) reaches the threshold."""
        taken = int(np.searchsorted(-self.ranked.ratio, -threshold, side="right"))
        return self._plan(taken, threshold, LAST_LINE)

    def _cut(self, taken: int, gap: float) -> Plan:
        if taken == 0:
            return self._plan(0, float("inf"), 0, gap)
        last = taken - 1
        return self._plan(taken, float(self.ranked.ratio[last]), int(self.line[self.ranked.row[last]]), gap)

    def _plan(self, taken: int, shadow_price: float, cut_line: int, gap: float = 0.0) -> Plan:
        model = chosen(self.step, self.line, shadow_price, cut_line)
        cost = self.base + int(self.spent[taken])
        return Plan(shadow_price, cut_line, model, cost, float(self.gained[taken]), gap)


def allocate(
    cost: npt.ArrayLike, quality: npt.ArrayLike, budget: int, line: npt.ArrayLike, damping: Damping | None = None
) -> Plan:
    """The most expected gain whose expected cost fits the budget. Shapes as in `Ranking.of`."""
    costs, qualities = np.asarray(cost, np.int64), np.asarray(quality)
    return Ranking.of(costs, qualities, line, steps(costs, qualities, damping)).within(budget)


def damping_of(cost: Ints) -> Damping:
    """The damping for a batch of these expected costs, shape (n, m): full dollars from where 1.5 standard deviations of
    the dearest model's extra cost reach its mean."""
    extra = cost - cost[:, :1]
    dear = extra[extra[:, -1] > 0, -1].astype(np.float64)
    power = float(min(1.0, DAMPING * dear.std() / dear.mean())) if len(dear) else 1.0
    mean = [int(column[column > 0].mean()) if (column > 0).any() else 0 for column in extra.T]
    return Damping(power, tuple(mean))
