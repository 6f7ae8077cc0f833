"""The gate: what is promoted, what is refused, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluate.metrics import apgr
from training.evaluate.qini import difference, effective, qini
from training.refit.gate import Benchmarked, Primary, decide

Floats = npt.NDArray[np.float64]


@st.composite
def primaries(draw: st.DrawFn) -> Primary:
    """Any evidence: few or many steps, rates that follow the gain or run against it, weights of all sizes."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, steps = draw(st.integers(50, 200)), draw(st.sampled_from([1, 2, 7, 1000]))
    gain = random.choice([-1.0, -0.5, 0.0, 0.5, 1.0], n, p=random.dirichlet(np.ones(5)))
    rates = []
    for told in (draw(st.sampled_from([-1, 0, 0.3, 1])) for _ in range(2)):
        rate = 0.5 + (told * gain + random.normal(0, 0.5, n)) / 6
        rates.append(np.round(np.clip(rate, 0, 1) * steps) / steps)
    return Primary(gain, random.exponential(1, n) + draw(st.sampled_from([0.01, 10.0])), *rates)


def traffic(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """The true win rates on n prompts, and what strong gained on them."""
    draw = np.random.default_rng(seed)
    hard = draw.random(n)
    return (0.9 + hard) / 2, (draw.random(n) < hard).astype(float) - (draw.random(n) < 0.1)


def judged(candidate: Floats, gain: Floats, active: Floats | None = None, **options: Any) -> tuple[bool, str]:
    serves = np.random.default_rng(9).random(len(gain)) if active is None else active
    verdict = decide(Primary(gain, np.ones(len(gain)), candidate, serves), **options)
    return verdict.promote, "; ".join(verdict.reasons)


def test_a_clearly_better_candidate_is_promoted_and_the_reasons_say_what_it_beats() -> None:
    rates, gain = traffic(300)
    promote, reasons = judged(rates, gain)
    assert promote
    assert "better than the active router" in reasons
    assert "better than random" in reasons


def test_a_candidate_of_flipped_labels_is_refused_on_every_count() -> None:
    rates, gain = traffic(300)
    promote, reasons = judged(1 - rates, gain, active=rates)
    assert not promote
    assert "not shown to be better: its Qini coefficient less the active router's is -" in reasons
    assert "not shown to be better than random" in reasons


def test_rates_that_send_everything_to_the_worse_model_are_behind_the_better_single_one() -> None:
    rates, gain = traffic(300)
    promote, reasons = judged(rates / 2, gain)  # the same ranking, and nothing is thought to be hard
    assert not promote
    assert reasons.startswith("behind the better single model: cut at win rate 1/2 its quality less all-strong's is -")


@settings(deadline=None)
@given(primaries())
def test_a_candidate_and_its_opposite_are_never_both_promoted(primary: Primary) -> None:
    turned = replace(primary, candidate=1 - primary.candidate)
    assert not (decide(primary).promote and decide(turned).promote)
    if qini(primary.candidate, primary.gain, primary.weight).value <= 0:
        assert not decide(primary).promote


@settings(deadline=None)
@given(primaries())
def test_the_same_ranking_is_never_promoted(primary: Primary) -> None:
    for same in (primary.active, primary.active**3, 0.5 + primary.active / 4):
        assert not decide(replace(primary, candidate=same)).promote


@settings(deadline=None)
@given(primaries(), st.integers(2, 5))
def test_more_of_the_same_evidence_narrows_the_bounds_around_the_same_figure(once: Primary, times: int) -> None:
    often = Primary(*(np.tile(column, times) for column in (once.gain, once.weight, once.candidate, once.active)))
    few, many = (difference(p.candidate, p.active, p.gain, p.weight) for p in (once, often))
    assert many.value == pytest.approx(few.value, abs=1e-9)
    assert few.interval()[0] <= many.interval()[0] + 1e-9
    if decide(once).promote and decide(once).figures["single"]["value"] >= 0:
        assert decide(often).promote


@settings(deadline=None)
@given(primaries())
def test_the_order_of_the_prompts_changes_nothing(forth: Primary) -> None:
    back = Primary(*(column[::-1] for column in (forth.gain, forth.weight, forth.candidate, forth.active)))
    assert decide(forth).promote == decide(back).promote


def test_too_little_data_is_a_reason() -> None:
    rates, gain = traffic(49)
    reason = "too little data: 49 prompts, worth 49 of equal weight, are fewer than 50"
    assert judged(rates, gain) == (False, reason)
    rates, gain = traffic(300)
    heavy = np.where(np.arange(300) < 10, 1e6, 1.0)
    assert not decide(Primary(gain, heavy, rates, gain * 0)).promote
    nothing = np.empty(0)
    assert not decide(Primary(nothing, nothing, nothing, nothing)).promote


def test_a_benchmark_may_fall_by_the_margin_and_no_more() -> None:
    rates, gain = traffic(300)
    held = Benchmarked("mmlu", candidate=0.625, active=0.64)
    assert judged(rates, gain, benchmarks=[held], margin=0.02)[0]
    promote, reasons = judged(rates, gain, benchmarks=[held], margin=0.01)
    assert not promote
    assert reasons == "mmlu's APGR goes from 0.6400 to 0.6250, a fall of more than 0.01"


def test_the_best_of_many_candidates_has_to_be_better_by_more() -> None:
    rates, gain = traffic(300)
    serves = np.random.default_rng(9).random(300)
    blurred = 0.5 + (rates + np.random.default_rng(1).random(300)) / 10
    alone, among = (decide(Primary(gain, np.ones(300), blurred, serves), candidates=n) for n in (1, 1_000_000))
    assert alone.promote
    assert not among.promote


def test_the_lift_is_what_apgr_is_above_one_half_in_points_of_quality() -> None:
    rates, gain = traffic(200)
    scores = np.round(rates, 1)
    estimate = qini(scores, gain, np.ones(200))
    assert 0.5 + estimate.value / gain.mean() == pytest.approx(apgr(scores, gain))
    assert qini(-scores, gain, np.ones(200)).value == pytest.approx(-estimate.value)
    assert qini(np.zeros(200), gain, np.ones(200)).value == pytest.approx(0)


def test_a_prompt_of_weight_two_counts_as_two() -> None:
    rates, gain = traffic(80)
    weight = np.where(np.arange(80) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(80), weight.astype(int))
    estimate = qini(rates, gain, weight)
    assert estimate.value == pytest.approx(qini(rates[twice], gain[twice], np.ones(len(twice))).value)
    assert effective(np.ones(7)) == pytest.approx(7)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    rates, gain = traffic(100_000, seed=4)
    noisy = rates + draw.random(100_000)
    truth = qini(noisy, gain, np.ones(100_000)).value
    held = 0
    for _ in range(200):
        rows = draw.integers(100_000, size=100)
        low, high = qini(noisy[rows], gain[rows], np.ones(100)).interval()
        held += low <= truth <= high
    assert 180 <= held <= 199


@pytest.mark.parametrize("broken", [{"gain": np.array([np.nan])}, {"weight": np.zeros(1)}, {"active": np.ones(2)}])
def test_what_is_no_evidence_is_an_error(broken: dict[str, Floats]) -> None:
    one = {name: np.ones(1) for name in ("gain", "weight", "candidate", "active")}
    with pytest.raises(ValueError, match="must be"):
        Primary(**(one | broken))
