"""Routers side by side: small sets whose figures can be computed by hand."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from training.evaluate.assessment import SHARES, Assessment, assess
from training.evaluate.benchmark_sets import Benchmark
from training.evaluate.dollars import Overhead, blended, cost_ratio, dollar_curve, quality_at
from training.evaluate.published import published

PRICES = (24.7, 0.24)
PERFECT, WORST = [0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.8, 0.9]


def four(costs: list[list[float]] | None = None, scale: tuple[float, float] = (0, 1)) -> Benchmark:
    """Strong is better on the first two of four prompts."""
    strong, weak = np.array([1.0, 1, 1, 0]), np.array([0.0, 0, 1, 0])
    return Benchmark("four", list("abcd"), strong, weak, ("s", "w"), None if costs is None else np.array(costs), scale)


@cache
def assessed(high: float = 1) -> Assessment:
    benchmark = four(scale=(0 if high == 1 else 1, high))
    return assess(benchmark, {"perfect": PERFECT, "worst": WORST}, PRICES)


def test_a_known_curve_gives_the_known_area_thresholds_and_cost_ratios() -> None:
    # PGR rises from 0 to 1 over the first half, and stays: area 3/4, half the gap at a quarter, 80 % at two fifths.
    perfect, worst = assessed().routers
    assert (perfect.apgr, perfect.cpt_50, perfect.cpt_80) == pytest.approx((0.75, 0.25, 0.4))
    assert (worst.apgr, worst.cpt_50, worst.cpt_80) == pytest.approx((0.25, 0.75, 0.9))
    # dollars a million tokens: 12.47 at random for half the gap, 6.355 for a quarter of the calls
    assert perfect.cost_ratio_50 == pytest.approx(12.47 / 6.355)
    assert perfect.cost_ratio_80 == pytest.approx(blended(0.8, PRICES) / blended(0.4, PRICES))
    assert worst.cost_ratio_50 is not None
    assert worst.cost_ratio_50 < 1


def test_with_a_free_weak_model_the_cost_ratio_is_the_papers_ratio_of_strong_calls() -> None:
    assert cost_ratio(PERFECT, four().gain, 0.5, (24.7, 0)) == pytest.approx(0.5 / 0.25)


def test_all_weak_all_strong_and_the_better_single_model_stand_beside_the_routers() -> None:
    assessment = assessed(high=10)
    assert (assessment.all_weak, assessment.all_strong, assessment.better_single) == pytest.approx((3.25, 7.75, 7.75))
    perfect = assessment.routers[0]
    assert perfect.quality is not None
    assert perfect.pgr is not None
    assert perfect.quality[[0, 5, 10, 20]] == pytest.approx([3.25, 5.5, 7.75, 7.75])
    assert perfect.pgr[SHARES == 0.25] == pytest.approx([0.5])


def test_random_and_oracle_are_always_there() -> None:
    assessment = assessed()
    assert (assessment.random.apgr, assessment.random.cpt_50, assessment.random.cost_ratio_80) == pytest.approx(
        (0.5, 0.5, 1)
    )
    assert assessment.random.apgr_interval is not None
    assert assessment.oracle.apgr == pytest.approx(0.75)
    assert assessment.oracle.brier is None
    assert [line.name for line in assessment.lines()] == ["perfect", "worst", "random routing", "oracle"]


def test_the_others_are_compared_with_the_first() -> None:
    perfect, worst = assessed().routers
    assert perfect.difference is None
    assert worst.difference is not None
    assert worst.difference[0] <= -0.5 <= worst.difference[1] <= 0


def test_where_strong_is_no_better_only_what_is_defined_is_told() -> None:
    even = Benchmark("even", ["a", "b"], np.array([1.0, 0]), np.array([0.0, 1]), ("s", "w"))
    (line, other) = assess(even, {"one": [0.9, 0.1], "two": [0.1, 0.9]}, PRICES).routers
    assert (line.apgr, line.cpt_50, line.cost_ratio_50, line.pgr, other.difference) == (None,) * 5
    assert line.quality is not None
    assert line.quality[10] == 1
    assert line.brier == pytest.approx(0.01)


def test_dollars_run_out_down_the_ranking() -> None:
    # all-weak costs 4; the strong answers cost 2, 4, 8 and 16 more
    benchmark = four([[3, 1], [5, 1], [9, 1], [17, 1]])
    curve = dollar_curve(PERFECT, benchmark)
    assert curve[0].tolist() == [4, 6, 10, 18, 34]
    assert quality_at(curve, 3.99) is None
    assert quality_at(curve, 4) == pytest.approx(0.25)
    assert quality_at(curve, 8) == pytest.approx(0.625)  # the first, and half of the second
    assert quality_at(curve, 100) == pytest.approx(0.75)
    assessment = assess(benchmark, {"perfect": PERFECT}, PRICES)
    assert assessment.budgets == pytest.approx([7, 11.5, 19, 26.5])
    assert assessment.routers[0].at_budgets == pytest.approx([0.5625, 0.75, 0.75, 0.75])


def test_a_strong_answer_that_is_cheaper_frees_money_again() -> None:
    cost, quality = np.array([4.0, 6, 5, 9]), np.array([0.0, 0.1, 0.2, 0.3])
    assert quality_at((cost, quality), 5) == pytest.approx(0.05)  # the first cut is not affordable
    assert quality_at((cost, quality), 7) == pytest.approx(0.25)


def test_unknown_costs_are_not_guessed() -> None:
    assessment = assessed()
    assert (assessment.budgets, assessment.routers[0].at_budgets, assessment.routers[0].dollars) == (None, None, None)
    with pytest.raises(ValueError, match="costs of four's answers are not known"):
        dollar_curve(PERFECT, four())


def test_ties_do_not_depend_on_the_order_of_rows() -> None:
    costs = np.array([[3.0, 1], [5, 1], [9, 1], [17, 1]])
    benchmark, scores = four(costs.tolist()), np.array([0.5, 0.2, 0.5, 0.2])
    rows = np.array([3, 2, 1, 0])
    (line,) = assess(benchmark, {"r": scores}, PRICES).routers
    (turned,) = assess(benchmark.take(rows), {"r": scores[rows]}, PRICES).routers
    for name in ("apgr", "cpt_50", "cost_ratio_80", "brier", "quality", "at_budgets", "bins"):
        assert getattr(turned, name) == pytest.approx(getattr(line, name)), name


def test_bins_say_what_was_claimed_and_what_came() -> None:
    (line,) = assess(four(), {"r": [0.9, 0.9, 0.4, 0.3]}, PRICES).routers
    assert line.bins is not None
    assert line.bins.tolist() == [
        pytest.approx(actual) for actual in ([0.3, 0.5, 0, 1], [0.4, 0.5, 0, 1], [0.9, 1, 0, 2])
    ]


def test_bins_hold_about_as_many_prompts_each_and_one_win_rate_is_one_bin() -> None:
    rng = np.random.default_rng(0)
    rates = 0.55 + 0.02 * rng.random(1000)
    strong = (rng.random(1000) < 0.5).astype(float)
    benchmark = Benchmark("many", [str(n) for n in range(1000)], strong, np.zeros(1000), ("s", "w"))
    (line, flat) = assess(benchmark, {"r": rates, "flat": np.full(1000, 0.6)}, PRICES).routers
    assert line.bins is not None
    assert flat.bins is not None
    assert line.bins[:, 3].tolist() == [100] * 10
    assert flat.bins.tolist() == [pytest.approx([0.6, (1 + strong.mean()) / 2, strong.std() / 2 / 1000**0.5, 1000])]


def test_overhead_is_that_of_the_papers_table() -> None:
    assert Overhead(2.9, 0.39).usd_per_million_requests == pytest.approx(37.46, abs=0.2)
    assert Overhead(155.16, 0.8).usd_per_million_requests == pytest.approx(1.42, abs=0.02)


def test_an_assessment_is_json() -> None:
    printed = json.loads(
        json.dumps(
            assess(four([[3, 1], [5, 1], [9, 1], [17, 1]]), {"perfect": PERFECT}, PRICES).as_dict(), allow_nan=False
        )
    )
    assert printed["routers"][0]["name"] == "perfect"
    assert printed["oracle"]["apgr"] == pytest.approx(0.75)


def test_the_papers_rows_are_there_for_its_sets_alone() -> None:
    rows = {(row.method, row.data): row for row in published("mt-bench")}
    best = rows["matrix_factorization", "Arena + judge"]
    assert (best.apgr, best.cpt_50, best.cpt_80) == (0.802, 0.134, 0.313)
    assert rows["bert", "Arena"].cpt_50 is None
    assert len(rows) == 9
    assert published("comparisons") == []
