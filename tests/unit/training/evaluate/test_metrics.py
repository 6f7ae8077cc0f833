"""The metrics: against their definitions computed one prompt at a time, and whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from training.evaluate.metrics import (
    apgr,
    apgr_ten_bins,
    bootstrap_interval,
    brier,
    calibration_error,
    cpt,
    evaluate,
    oracle,
    paired_interval,
    random_interval,
    recovered,
)

GAINS = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0])
SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Scores with ties and gains of which the sum is positive."""
    gain = draw(st.lists(GAINS, min_size=1, max_size=30))
    assume(sum(gain) > 0)
    return draw(st.lists(SCORES, min_size=len(gain), max_size=len(gain))), gain


def area_by_hand(scores: list[float], gain: list[float]) -> float:
    """The area under PGR, a trapezoid for each distinct score."""
    area = share = pgr = 0.0
    for cut in sorted(set(scores), reverse=True):
        group = [g for s, g in zip(scores, gain, strict=True) if s == cut]
        step, rise = len(group) / len(gain), sum(group) / sum(gain)
        area += step * (pgr + rise / 2)
        share, pgr = share + step, pgr + rise
    return area


@given(rankings())
def test_apgr_is_the_area_under_the_gap_recovered(ranking: tuple[list[float], list[float]]) -> None:
    assert apgr(*ranking) == pytest.approx(area_by_hand(*ranking), abs=1e-9)


@given(rankings(), st.integers(0, 99))
def test_no_metric_depends_on_the_order_of_rows(ranking: tuple[list[float], list[float]], seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(len(ranking[0]))
    scores, gain = np.array(ranking[0]), np.array(ranking[1])
    for metric in (apgr, apgr_ten_bins, lambda s, g: cpt(s, g, 0.5), calibration_error, brier):
        assert metric(scores[rows], gain[rows]) == pytest.approx(metric(scores, gain), abs=1e-9)


@given(rankings())
def test_no_ranking_beats_the_oracle_and_turned_around_it_is_the_complement(
    ranking: tuple[list[float], list[float]],
) -> None:
    scores, gain = ranking
    assert apgr(scores, gain) <= oracle(gain) + 1e-9
    assert apgr(scores, gain) + apgr([-score for score in scores], gain) == pytest.approx(1)


@given(rankings(), st.floats(0.05, 1))
def test_cpt_is_the_first_share_at_which_the_curve_reaches_the_level(
    ranking: tuple[list[float], list[float]], level: float
) -> None:
    share, pgr = recovered(*ranking)
    threshold = cpt(*ranking, level)
    assert np.interp(threshold, share, pgr) == pytest.approx(level, abs=1e-6)
    below = share < threshold - 1e-9
    assert (pgr[below] < level).all()


def test_cpt_of_a_curve_that_falls_again_takes_the_first_crossing() -> None:
    # PGR: 0, 1, 0.5, 1 at thirds: 0.75 is reached three times
    assert cpt([3, 2, 1], [2, -1, 1], 0.75) == pytest.approx(0.25)
    assert cpt([3, 2, 1], [2, -1, 1], 0) == 0


def test_a_level_above_the_curve_is_refused() -> None:
    with pytest.raises(ValueError, match=r"never reaches 1\.5"):
        cpt([1, 0], [1, 0], 1.5)


def test_all_prompts_tied_is_random() -> None:
    assert apgr([0.3] * 7, [1, 0, -1, 1, 0, 0, 1]) == pytest.approx(0.5)
    assert apgr_ten_bins([0.3] * 7, [1, 0, -1, 1, 0, 0, 1]) == pytest.approx(0.5)


def test_the_best_ranking_of_half_the_prompts_has_the_area_of_its_trapezoid() -> None:
    scores, gain = np.arange(100)[::-1], np.r_[np.ones(50), np.zeros(50)]
    assert apgr(scores, gain) == pytest.approx(0.75)
    assert cpt(scores, gain, 0.8) == pytest.approx(0.4)


def test_ten_bins_agree_with_the_exact_area_on_many_prompts() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(5000)
    gain = (rng.random(5000) < scores).astype(float)
    assert apgr_ten_bins(scores, gain) == pytest.approx(apgr(scores, gain), abs=0.01)
    assert apgr(scores, gain) == pytest.approx(2 / 3, abs=0.01)


def test_a_random_ranking_is_a_half_and_its_interval_holds_it() -> None:
    gain = np.tile([1.0, 0.0, 0.0, -1.0, 1.0], 200)
    low, high = random_interval(gain, seed=1)
    assert low < 0.5 < high < 0.7
    assert random_interval(gain, seed=1) == (low, high)
    assert random_interval(gain, metric=apgr_ten_bins)[0] == pytest.approx(low, abs=0.03)


def test_the_bootstrap_interval_holds_the_metric_and_shrinks_with_prompts() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(2000)
    gain = (rng.random(2000) < scores).astype(float)
    low, high = bootstrap_interval(scores, gain)
    few = bootstrap_interval(scores[:200], gain[:200])
    assert low < apgr(scores, gain) < high
    assert high - low < few[1] - few[0]


def test_a_paired_interval_tells_apart_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(5)
    known = rng.random(800)
    gain = (rng.random(800) < known).astype(float)
    better, worse = known + 0.4 * rng.random(800), known + 0.9 * rng.random(800)
    low, high = paired_interval(better, worse, gain)
    difference = apgr(better, gain) - apgr(worse, gain)
    assert 0 < low < difference < high
    assert bootstrap_interval(worse, gain)[1] > bootstrap_interval(better, gain)[0]
    turned = paired_interval(worse, better, gain)
    assert turned == pytest.approx((-high, -low))


def test_a_router_is_no_better_than_itself_whatever_is_drawn() -> None:
    assert paired_interval([3, 2, 1, 0], [6, 4, 2, 0], [1, 0, 1, 0]) == (0, 0)


def test_no_gap_to_recover_is_refused_not_divided_by() -> None:
    for metric in (apgr, apgr_ten_bins, bootstrap_interval):
        with pytest.raises(ValueError, match="no gap"):
            metric([1, 2], [0.5, -0.5])
    with pytest.raises(ValueError, match="no gap"):
        paired_interval([1, 2], [2, 1], [0.5, -0.5])


@pytest.mark.parametrize(
    ("scores", "gain", "reason"),
    [([], [], "not empty"), ([1, 2], [1], "one length"), ([np.nan, 1], [1, 1], "finite"), ([1], [np.inf], "finite")],
)
def test_what_is_no_ranking_is_refused(scores: list[float], gain: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        apgr(scores, gain)


def test_win_rates_that_are_the_outcomes_have_no_error() -> None:
    gain = np.array([1, 0, -1, 0.5])
    assert brier((1 + gain) / 2, gain) == 0
    assert calibration_error((1 + gain) / 2, gain) == 0


def test_calibration_is_taken_bin_by_bin() -> None:
    # 0.9 where half are won, 0.1 where half are won: off by 0.4 in both bins although right on the whole
    rates, gain = [0.9, 0.9, 0.1, 0.1], [1, -1, 1, -1]
    assert calibration_error(rates, gain) == pytest.approx(0.4)
    assert brier(rates, gain) == pytest.approx((0.01 + 0.81) / 2)
    assert calibration_error([0.0, 1.0], [-1, 1], bins=3) == 0


def test_an_evaluation_without_a_gap_leaves_the_ranking_out() -> None:
    figures = evaluate([0.4, 0.6], [0, 0]).as_dict()
    assert figures["apgr"] is None
    assert figures["brier"] == pytest.approx(0.01)


def test_an_evaluation_has_every_figure() -> None:
    rng = np.random.default_rng(0)
    rates = rng.random(300)
    figures = evaluate(rates, (rng.random(300) < rates).astype(float))
    assert figures.prompts == 300
    assert all(value is not None for value in figures.as_dict().values())
    assert figures.apgr is not None
    assert figures.oracle is not None
    assert 0.5 < figures.apgr < figures.oracle
