"""Plans over any number of models: never over budget, monotone, and at most one increment below the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from routing_service.planning.allocation import LAST_LINE, Ranking, allocate, damping_of
from routing_service.planning.hull import NEVER, Damping, chosen, steps
from tests.support.examples import examples

INF = float("inf")
Costs = npt.NDArray[np.int64]
Qualities = npt.NDArray[np.float64]
Batch = tuple[Costs, Qualities, npt.NDArray[np.int64]]


@st.composite
def batches(draw: st.DrawFn, largest: int = 30, models: int = 4) -> Batch:
    """With ties, with dearer models that are worse, with models cheaper than the first."""
    n, m = draw(st.integers(0, largest)), draw(st.integers(1, models))
    cost = draw(st.lists(st.lists(st.integers(0, 4000), min_size=m, max_size=m), min_size=n, max_size=n))
    levels = st.sampled_from([0.0, 0.3, 0.5, 0.55, 0.6, 0.75, 1.0])
    quality = draw(st.lists(st.lists(levels, min_size=m, max_size=m), min_size=n, max_size=n))
    line = draw(st.permutations(range(1, n + 1)))
    return np.array(cost, np.int64).reshape(n, m), np.array(quality, float).reshape(n, m), np.array(line, np.int64)


def of(batch: Batch, models: npt.NDArray[np.integer]) -> tuple[int, float]:
    """Cost and gain over the first model of an assignment."""
    cost, quality, _ = batch
    rows = np.arange(len(cost))
    return int(cost[rows, models].sum()), float(2 * (quality[rows, models] - quality[:, 0]).sum())


@given(batches(), st.integers(0, 100_000))
def test_cost_and_gain_are_those_of_the_assignment_and_fit_the_budget(batch: Batch, budget: int) -> None:
    plan = allocate(*batch[:2], budget, batch[2])
    cost, gain = of(batch, plan.model)
    assert plan.expected_cost == cost
    assert plan.expected_gain == pytest.approx(gain)
    assert cost <= max(budget, int(batch[0][:, 0].sum()))


@given(batches(), st.integers(0, 60_000), st.integers(0, 60_000))
def test_more_budget_never_gains_less_nor_raises_the_shadow_price(batch: Batch, budget: int, more: int) -> None:
    ranking = Ranking.of(*batch)
    small, large = ranking.within(budget), ranking.within(budget + more)
    assert large.shadow_price <= small.shadow_price
    assert large.expected_gain >= small.expected_gain - 1e-9
    assert large.expected_cost >= small.expected_cost


@given(batches(), st.integers(0, 100_000), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(batch: Batch, budget: int, random: object) -> None:
    cost, quality, line = batch
    order = np.array(random.sample(range(len(line)), len(line)), dtype=np.intp)  # type: ignore[attr-defined]
    plan = allocate(cost, quality, budget, line)
    again = allocate(cost[order], quality[order], budget, line[order])
    assert (again.shadow_price, again.cut_line) == (plan.shadow_price, plan.cut_line)
    assert again.model.tolist() == plan.model[order].tolist()


@given(batches(largest=5), st.integers(0, 15_000))
def test_no_assignment_beats_it_by_more_than_the_gap(batch: Batch, budget: int) -> None:
    cost, quality, _ = batch
    plan = allocate(*batch[:2], budget, batch[2])
    assignments = itertools.product(range(cost.shape[1]), repeat=len(cost))
    best = max(
        (of(batch, np.array(a, int)) for a in assignments if of(batch, np.array(a, int))[0] <= budget),
        key=lambda actual: actual[1],
        default=None,
    )
    if best is not None and (cost >= cost[:, :1]).all():  # money saved below the first model's cost is not counted on
        assert plan.expected_gain >= best[1] - plan.gap - 1e-9
    assert plan.gap <= 2 * np.ptp(quality, axis=1).max(initial=0) + 1e-9


@examples(20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.floats(0.05, 0.9))
def test_the_gap_reaches_up_to_what_an_exact_solver_finds(seed: int, m: int, share: float) -> None:
    draw, n = np.random.default_rng(seed), 60
    cost = np.sort(draw.integers(1, 5000, (n, m)), axis=1)
    quality = np.column_stack([np.full(n, 0.5), 0.5 + draw.random((n, m - 1)) / 2])
    budget = int(cost[:, 0].sum() + share * (cost[:, -1] - cost[:, 0]).sum())
    plan = allocate(cost, quality, budget, np.arange(n))
    once = np.kron(np.eye(n), np.ones(m))
    gain = (2 * (quality - quality[:, :1])).ravel()
    limits = [LinearConstraint(once, 1, 1), LinearConstraint(cost.reshape(1, -1), -np.inf, budget)]
    best = milp(-gain, constraints=limits, integrality=np.ones(n * m), bounds=Bounds(0, 1), options={"mip_rel_gap": 0})
    assert plan.expected_gain <= -best.fun + 1e-6
    assert -best.fun <= plan.expected_gain + plan.gap + 1e-6


@given(batches(), st.floats(0.1, 1))
def test_a_dearer_model_is_reached_on_a_hull_only(batch: Batch, power: float) -> None:
    cost, quality, _ = batch
    step = steps(cost, quality, Damping(power, (0, 500, 1000, 3000)[: cost.shape[1]]))
    assert not np.isnan(step).any()
    for row in range(len(cost)):
        on = np.flatnonzero(step[row] > NEVER)
        on = on[np.lexsort((on > 0, -step[row, on]))]
        assert on[0] == 0
        assert (np.diff(quality[row, on]) > 0).all()
        assert len(on) < 3 or (np.diff(np.minimum(step[row, on[1:]], 1e300)) < 0).all()


@given(batches(), st.floats(0, 2000), st.integers(0, 30))
def test_a_model_is_chosen_only_with_all_increments_that_lead_to_it(batch: Batch, price: float, line: int) -> None:
    step = steps(*batch[:2])
    for row, model in enumerate(chosen(step, batch[2], price, line)):
        taken = (step[row] > price) | ((step[row] == price) & (batch[2][row] <= line))
        assert model == 0 or (taken[model] and not (taken & (step[row] < step[row, model])).any())


@pytest.mark.parametrize("spread", [0.1, 0.3, 1])
@pytest.mark.parametrize("models", [2, 4])
def test_at_ten_thousand_requests_the_gap_is_below_one_increment_and_a_thousandth_of_the_gain(
    spread: float, models: int
) -> None:
    draw, n = np.random.default_rng(0), 10_000
    extra = draw.lognormal(12, spread, (n, 1)) * [0, 1, 2.5, 6][:models]
    cost = (1000 + extra).astype(np.int64)
    quality = np.column_stack([np.full(n, 0.5), np.sort(0.5 + draw.random((n, models - 1)) / 2, axis=1)])
    ranking = Ranking.of(cost, quality, np.arange(n), steps(cost, quality, damping_of(cost)))
    gaps = []
    for share in np.linspace(0.1, 0.75, 14):
        plan = ranking.within(ranking.base + int(share * ranking.spent[-1]))
        assert 0 <= plan.gap < ranking.ranked.gain.max()
        assert plan.gap < 0.001 * plan.expected_gain
        gaps.append(plan.gap)
    assert max(gaps) > 0


def test_the_middle_model_is_bought_first_and_left_again_for_the_best() -> None:
    cost, quality = [[10, 20, 110]] * 2, [[0.5, 0.7, 0.9]] * 2
    budgets = {19: [0, 0], 30: [1, 0], 40: [1, 1], 130: [2, 1], 220: [2, 2]}
    assert {b: allocate(cost, quality, b, [1, 2]).model.tolist() for b in budgets} == budgets


def test_a_model_under_the_hull_is_never_bought() -> None:
    cost, quality = [[10, 60, 110]], [[0.5, 0.51, 0.9]]
    assert {int(allocate(cost, quality, b, [1]).model[0]) for b in range(10, 200)} == {0, 2}


def test_what_is_better_and_no_dearer_is_taken_whatever_the_budget() -> None:
    plan = allocate([[10, 5, 200]], [[0.5, 0.6, 0.9]], 0, [1])
    assert (plan.model.tolist(), plan.expected_cost, plan.shadow_price) == ([1], 5, INF)


@pytest.mark.parametrize(("share", "models"), [(0.0, [0, 0, 0]), (0.4, [1, 0, 0]), (0.5, [1, 1, 0]), (1.0, [1, 1, 1])])
def test_the_least_cost_for_a_share_of_the_gain(share: float, models: list[int]) -> None:
    ranking = Ranking.of([[0, 10], [0, 20], [0, 100]], [[0.5, 0.7], [0.5, 0.7], [0.5, 0.6]], [1, 2, 3])
    assert ranking.reaching(share).model.tolist() == models


def test_without_information_about_gains_the_cheapest_upgrades_come_first() -> None:
    cost = np.array([[0, 30], [0, 10], [0, 20]])
    plan = allocate(cost, np.full((3, 2), 0.5) + np.array([0, 0.05]), 35, [1, 2, 3], damping_of(cost))
    assert plan.model.tolist() == [0, 1, 1]


def pair(extra: list[int]) -> Costs:
    return np.array([[100, 100 + e] for e in extra])


def test_costs_that_hardly_differ_are_damped() -> None:
    assert damping_of(pair([1000, 1000, 1000])) == Damping(0, (0, 1000))
    assert damping_of(pair([1000, 1100, 900])).power == pytest.approx(1.5 * np.std([1, 1.1, 0.9]))
    assert damping_of(pair([1, 10_000])).power == 1
    assert damping_of(pair([0, -5])).power == 1


def test_damping_leaves_what_models_differ_by_in_price() -> None:
    """Among requests of like length a middle model at a third of the price and most of the gain is still bought."""
    cost = np.array([[10, 300, 1000], [10, 310, 1030]])
    plan = allocate(cost, np.tile([0.5, 0.7, 0.75], (2, 1)), 650, [1, 2], damping_of(cost))
    assert plan.model.tolist() == [1, 1]


def ranking_by(score: list[float]) -> Ranking:
    """A pair ranked by these numbers; every upgrade costs 3 and gains .2."""
    n = len(score)
    step = np.column_stack([np.full(n, INF), score])
    return Ranking.of(np.tile([0, 3], (n, 1)), np.tile([0.5, 0.6], (n, 1)), np.arange(1, n + 1), step)


def test_a_share_is_taken_from_the_top_of_what_can_be_routed() -> None:
    ranking = ranking_by([0.1, 0.4, -0.2, 0.4, INF, NEVER])
    plan = ranking.share(0.5)
    assert plan.model.tolist() == [0, 1, 0, 1, 1, 0]
    assert (plan.shadow_price, plan.cut_line) == (0.4, 4)
    assert ranking.share(0.0).model.tolist() == [0, 0, 0, 0, 1, 0]
    assert ranking.share(1.0).model.tolist() == [1, 1, 1, 1, 1, 0]


def test_a_threshold_upgrades_every_win_rate_that_reaches_it() -> None:
    plan = ranking_by([0.2, 0.5, 0.9, NEVER]).threshold(0.5)
    assert plan.model.tolist() == [0, 1, 1, 0]
    assert (plan.shadow_price, plan.cut_line, plan.expected_cost) == (0.5, LAST_LINE, 6)


def test_costs_that_answers_have_shown_lower_never_count_as_savings() -> None:
    step = np.array([[INF, 5.0], [INF, 4.0]])
    plan = Ranking.of([[10, 4], [10, 110]], [[0.5, 0.6]] * 2, [1, 2], step).within(120)
    assert (plan.model.tolist(), plan.expected_cost) == ([1, 1], 120)


def test_an_upgrade_that_has_come_to_cost_nothing_is_left_where_the_budget_is_below_the_cheapest_plan() -> None:
    ranking = Ranking.of([[10, 10], [10, 30]], [[0.5, 0.9], [0.5, 0.8]], [1, 2], np.array([[INF, 5.0], [INF, 4.0]]))
    plan = ranking.within(15)
    assert plan.model.tolist() == [0, 0]
    assert (plan.expected_cost, plan.gap) == (20, 0)


def test_an_empty_batch_has_an_empty_plan() -> None:
    plan = allocate(np.empty((0, 2)), np.empty((0, 2)), 10, [])
    assert plan.model.size == plan.expected_cost == 0


def test_a_single_candidate_leaves_nothing_to_upgrade() -> None:
    plan = allocate([[10], [20]], [[0.5], [0.5]], 1000, [1, 2])
    assert (plan.model.tolist(), plan.expected_cost) == ([0, 0], 30)


def test_ties_are_cut_by_line() -> None:
    plan = allocate(np.tile([10, 110], (5, 1)), np.tile([0.5, 0.9], (5, 1)), 50 + 3 * 100 + 99, [5, 3, 1, 4, 2])
    assert plan.model.tolist() == [0, 1, 1, 0, 1]
    assert (plan.cut_line, plan.expected_cost) == (3, 350)
    assert plan.expected_gain == pytest.approx(2.4)
