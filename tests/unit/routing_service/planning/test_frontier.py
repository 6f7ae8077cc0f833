"""The ladder of budgets: from the cheapest plan to the one that buys all there is, dearer and better at every rung."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from routing_service.planning.allocation import Ranking
from routing_service.planning.frontier import RUNGS, frontier

DRAW = np.random.default_rng(0)
COST = np.sort(DRAW.integers(1_000, 100_000, (500, 3)), axis=1)
QUALITY = np.column_stack([np.full(500, 0.5), 0.5 + DRAW.random((500, 2)) / 4])
RANKING = Ranking.of(COST, QUALITY, np.arange(500))
STD = np.column_stack([np.zeros(500), np.full((500, 2), 0.1)])


def test_every_rung_costs_and_gains_more_and_stays_within_its_budget() -> None:
    rungs = frontier(RANKING, STD)
    assert len(rungs) == len(RUNGS)
    assert all(rung.cost <= rung.budget for rung in rungs)
    assert all(a.cost <= b.cost and a.gain <= b.gain for a, b in pairwise(rungs))
    assert rungs[0].share == (1.0, 0.0, 0.0)
    assert (rungs[0].cost, rungs[0].gain) == (COST[:, 0].sum(), 0)
    assert rungs[-1].recovered == pytest.approx(1)
    assert all(sum(rung.share) == pytest.approx(1) for rung in rungs)


def test_an_interval_holds_its_gain_and_widens_with_the_routers_doubt() -> None:
    sure, unsure = (frontier(RANKING, STD * factor)[-1] for factor in (0, 2))
    assert sure.low < sure.gain < sure.high
    assert unsure.high - unsure.low > sure.high - sure.low
    assert frontier(RANKING, STD)[0].low == 0


def test_a_rung_tells_what_splitting_one_request_would_gain_more_at_most() -> None:
    ranking = Ranking.of([[0, 100], [0, 200]], [[0.5, 0.7], [0.5, 0.8]], [1, 2])
    bought, left, all_bought = frontier(ranking, np.zeros((2, 2)), [100, 150, 300])
    assert (bought.gain, bought.gap) == pytest.approx((0.2, 0))
    assert (left.gain, left.gap) == pytest.approx((0.2, 0.6 / 4 / 2))
    assert all_bought.gap == 0


def test_budgets_may_be_named() -> None:
    rungs = frontier(RANKING, STD, [0, 10**9])
    assert [rung.budget for rung in rungs] == [0, 10**9]
    assert rungs[0].cost == COST[:, 0].sum()


def test_an_empty_batch_has_a_frontier_of_nothing() -> None:
    empty = Ranking.of(np.empty((0, 2), np.int64), np.empty((0, 2)), np.empty(0, np.int64))
    assert {(rung.cost, rung.gain, rung.low, rung.high) for rung in frontier(empty, np.empty((0, 2)))} == {(0, 0, 0, 0)}
