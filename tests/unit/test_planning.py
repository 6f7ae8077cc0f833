"""The plan: never over budget, monotone, independent of order, and as good as brute force but for one increment."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.planning import LAST_LINE, Plan, allocate, cut_share, cut_threshold, gains, ratios

INF = float("inf")
Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


@st.composite
def batches(draw: st.DrawFn, largest: int = 40) -> Batch:
    """Costs, qualities and lines: with ties, with losses, with a strong model that is sometimes the cheaper one."""
    n = draw(st.integers(0, largest))
    weak = draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n))
    extra = draw(st.lists(st.integers(-200, 5000), min_size=n, max_size=n))
    quality = draw(st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.75, 1.0]), min_size=n, max_size=n))
    lines = draw(st.permutations(range(1, n + 1)))
    cost = np.array([weak, [max(0, w + e) for w, e in zip(weak, extra, strict=True)]], np.int64).T.reshape(n, 2)
    return cost, np.column_stack([np.full(n, 0.5), np.array(quality, float)]).reshape(n, 2), np.array(lines, np.int64)


def by_rule(batch: Batch, plan: Plan) -> list[bool]:
    cost, quality, line = batch
    ratio = ratios(gains(quality), cost)
    upgraded = (ratio > plan.shadow_price) | ((ratio == plan.shadow_price) & (line <= plan.cut_line))
    return [bool(u) for u in upgraded]


@given(batches(), st.integers(0, 100_000))
def test_the_expected_cost_never_exceeds_a_budget_that_all_weak_fits(batch: Batch, budget: int) -> None:
    plan = allocate(*batch[:2], budget, batch[2])
    cost = batch[0]
    assert plan.expected_cost == int(np.where(plan.upgraded, cost[:, 1], cost[:, 0]).sum())
    assert plan.expected_cost <= max(budget, int(cost[:, 0].sum()))


@given(batches(), st.integers(0, 100_000))
def test_shadow_price_and_cut_line_give_every_decision_back(batch: Batch, budget: int) -> None:
    plan = allocate(*batch[:2], budget, batch[2])
    assert by_rule(batch, plan) == plan.upgraded.tolist()


@given(batches(), st.integers(0, 50_000), st.integers(0, 50_000))
def test_more_budget_upgrades_more_and_never_raises_the_shadow_price(batch: Batch, budget: int, more: int) -> None:
    small, large = (allocate(*batch[:2], limit, batch[2]) for limit in (budget, budget + more))
    assert (large.upgraded | ~small.upgraded).all()
    assert large.shadow_price <= small.shadow_price
    assert large.expected_gain >= small.expected_gain - 1e-9


@given(batches(), st.integers(0, 100_000), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(batch: Batch, budget: int, random: object) -> None:
    cost, quality, line = batch
    order = np.array(random.sample(range(len(line)), len(line)), dtype=np.intp)  # type: ignore[attr-defined]
    plan = allocate(cost, quality, budget, line)
    again = allocate(cost[order], quality[order], budget, line[order])
    assert (again.shadow_price, again.cut_line) == (plan.shadow_price, plan.cut_line)
    assert again.upgraded.tolist() == plan.upgraded[order].tolist()


@given(batches(largest=8), st.integers(0, 30_000))
def test_no_allocation_beats_it_by_more_than_one_increment(batch: Batch, budget: int) -> None:
    cost, quality, line = batch
    gain = gains(quality)
    plan = allocate(cost, quality, budget, line)
    best = max(
        (sum(gain[list(chosen)]) for chosen in subsets(len(line)) if spent(cost, chosen) <= budget),
        default=-INF,
    )
    assert plan.expected_gain >= best - max(gain.max(initial=0.0), 0.0) - 1e-9


def subsets(n: int) -> list[tuple[int, ...]]:
    return [chosen for size in range(n + 1) for chosen in itertools.combinations(range(n), size)]


def spent(cost: npt.NDArray[np.int64], chosen: tuple[int, ...]) -> int:
    return int(cost[:, 0].sum()) + sum(int(cost[i, 1] - cost[i, 0]) for i in chosen)


@given(batches(), st.integers(0, 100_000))
def test_what_gains_nothing_is_never_upgraded(batch: Batch, budget: int) -> None:
    plan = allocate(*batch[:2], budget, batch[2])
    assert not plan.upgraded[gains(batch[1]) <= 0].any()


def test_ties_are_cut_by_line() -> None:
    cost, quality = np.tile([10, 110], (5, 1)), np.tile([0.5, 0.9], (5, 1))
    plan = allocate(cost, quality, 50 + 3 * 100 + 99, [5, 3, 1, 4, 2])
    assert plan.upgraded.tolist() == [False, True, True, False, True]
    assert plan.cut_line == 3
    assert plan.expected_cost == 350
    assert plan.expected_gain == pytest.approx(2.4)


def test_a_budget_that_does_not_bind_has_no_shadow_price() -> None:
    plan = allocate([[1, 100], [1, 50]], [[0.5, 0.6], [0.5, 0.4]], 1000, [1, 2])
    assert plan.upgraded.tolist() == [True, False]
    assert (plan.shadow_price, plan.cut_line) == (0.0, 0)


def test_a_budget_that_all_weak_uses_up_upgrades_only_what_costs_nothing_more() -> None:
    plan = allocate([[10, 100], [10, 10], [10, 5]], [[0.5, 0.9]] * 3, 25, [1, 2, 3])
    assert plan.upgraded.tolist() == [False, True, True]
    assert plan.shadow_price == INF
    assert allocate([[10, 100]], [[0.5, 0.9]], 10, [1]).cut_line == 0


def test_a_single_candidate_leaves_nothing_to_upgrade() -> None:
    plan = allocate([[10], [20]], [[0.5], [0.5]], 1000, [1, 2])
    assert plan.upgraded.tolist() == [False, False]
    assert plan.expected_cost == 30


def test_more_than_two_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="not 3"):
        allocate([[1, 2, 3]], [[0.5, 0.6, 0.7]], 10, [1])


def test_an_empty_batch_has_an_empty_plan() -> None:
    plan = allocate(np.empty((0, 2)), np.empty((0, 2)), 10, [])
    assert plan.upgraded.size == plan.expected_cost == 0


def test_a_share_is_taken_from_the_top_of_what_can_be_routed() -> None:
    ratio = np.array([0.1, 0.4, -0.2, 0.4, INF, -INF])
    zeros, line = np.zeros(6, np.int64), np.arange(1, 7)
    plan = cut_share(ratio, ratio, zeros, zeros, line, 0.5)
    assert plan.upgraded.tolist() == [False, True, False, True, False, False]
    assert (plan.shadow_price, plan.cut_line) == (0.4, 4)
    assert cut_share(ratio, ratio, zeros, zeros, line, 0.0).shadow_price == INF
    assert cut_share(ratio, ratio, zeros, zeros, line, 1.0).upgraded.sum() == 4


def test_a_threshold_upgrades_every_win_rate_that_reaches_it() -> None:
    rate = np.array([0.2, 0.5, 0.9, -INF])
    zeros = np.zeros(4, np.int64)
    plan = cut_threshold(rate, rate, zeros, zeros + 3, 0.5)
    assert plan.upgraded.tolist() == [False, True, True, False]
    assert (plan.shadow_price, plan.cut_line, plan.expected_cost) == (0.5, LAST_LINE, 6)
