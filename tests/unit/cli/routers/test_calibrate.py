"""`routebatch calibrate`: the threshold that sends a wanted share of prompts to the strong model, ties and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from cli.main import main
from routing_service.routers import registry
from tests.support.routers.fake_router import LengthRouter
from training.evaluate.thresholds import WinRates

SHARE = st.floats(0, 1)
RATES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60)


@given(RATES, SHARE)
def test_a_cut_sends_what_it_says_and_no_other_cut_comes_nearer_from_below(rates: list[float], share: float) -> None:
    actual = np.array(rates, np.float32).astype(np.float64)
    cut, following = WinRates(rates).cut(share)
    assert 0 <= cut.threshold <= 1
    assert int((actual >= cut.threshold).sum()) == cut.strong
    reachable = {0, *(int((actual >= rate).sum()) for rate in actual)}
    if actual.max() == 1:
        reachable.discard(0)
    below = [count for count in reachable if count <= share * len(rates) + 1e-6]
    assert cut.strong == (max(below) if below else min(reachable))
    if following is not None:
        assert int((actual >= following.threshold).sum()) == following.strong
        assert following.strong == min(count for count in reachable if count > cut.strong)
        assert following.share > share - 1e-6


@given(st.lists(st.floats(0.0078125, 0.9921875, width=32), min_size=1, max_size=60, unique=True), SHARE)
def test_without_ties_the_share_is_reached_to_a_prompt_and_there_is_no_next_cut(
    rates: list[float], share: float
) -> None:
    cut, following = WinRates(rates).cut(share)
    assert 0 <= share * len(rates) - cut.strong < 1 + 1e-6 or cut.strong == len(rates)
    assert following is None


def test_thresholds_are_short_and_lie_between_win_rates() -> None:
    rates = np.array([0.2] * 6 + [0.7] * 4, np.float32)
    cut, following = WinRates(rates).cut(0.4)
    assert (cut.threshold, cut.share, following) == (0.4, 0.4, None)
    close, _ = WinRates([0.61234, 0.61237]).cut(0.5)
    assert 0.61234 < close.threshold <= 0.61237
    assert len(str(close.threshold)) <= len("0.61236")


def test_a_share_that_ties_make_impossible_gives_the_nearest_below_and_the_next_above() -> None:
    cut, following = WinRates([0.9, 0.5, 0.5, 0.5, 0.1]).cut(0.6)
    assert (cut.share, following and following.share) == (0.2, 0.8)
    none, everything = WinRates([0.5] * 4).cut(0.5)
    assert (none.share, none.threshold, everything and everything.share) == (0, 1.0, 1)


@pytest.mark.parametrize(
    ("rates", "share", "wanted"),
    [
        ([0.3, 0.4], 1, (0.0, 2)),
        ([0.3, 0.4], 0, (1.0, 0)),
        ([1, 0.4], 0, (0.7, 1)),  # a win rate of 1 reaches every threshold
        ([1, 1], 0, (0.0, 2)),
        ([0.1 * n for n in range(10)], 0.1 + 0.2, (0.7, 3)),  # 0.30000000000000004
    ],
)
def test_the_ends(rates: list[float], share: float, wanted: tuple[float, int]) -> None:
    cut, _ = WinRates(rates).cut(share)
    assert cut.strong == wanted[1]
    assert cut.threshold == pytest.approx(wanted[0], abs=0.1)


@pytest.mark.parametrize("rates", [[], [0.5, float("nan")], [1.5], [[0.5]]])
def test_what_is_no_list_of_win_rates_is_refused(rates: list[Any]) -> None:
    with pytest.raises(ValueError, match="win rates must be"):
        WinRates(rates)


def test_the_quantile_that_routellm_takes_sends_more_where_win_rates_are_tied() -> None:
    # its calibrate_threshold: the quantile of 1 - share, rounded to five decimals
    rates = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    theirs = float(np.quantile(rates, 1 - 0.6))
    assert (rates >= theirs).mean() == pytest.approx(0.8)
    untied = np.random.default_rng(0).random(1000)
    ours, _ = WinRates(untied).cut(0.3)
    assert (untied >= np.quantile(untied, 0.7)).sum() == ours.strong == 300


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LengthRouter:
    router = LengthRouter()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.METHODS, "length", "tests.support.routers.fake_router:LengthRouter")
    monkeypatch.setattr(registry, "make_router", lambda name, settings: router)
    return router


def calibrate(prompts: list[str], *arguments: str) -> Result:
    Path("in.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return CliRunner().invoke(main, ["calibrate", "--router", "length", "--on", "in.jsonl", *arguments])


def test_several_shares_are_found_at_once_and_printed_as_json_alone(router: LengthRouter) -> None:
    result = calibrate(["a", "aa", "aaa", "aaaa"], "--strong-share", "0.5", "--strong-share", "0.25", "--json")
    printed = json.loads(result.stdout)
    assert (printed["router"], printed["strong"], printed["weak"], printed["prompts"]) == (
        "length",
        "strong",
        "weak",
        4,
    )
    half, quarter = printed["thresholds"]
    assert (half["strong_share"], half["share"], half["prompts"], half["next"]) == (0.5, 0.5, 2, None)
    assert 0.6 < half["threshold"] <= 0.65  # of win rates .55, .6, .65 and .7
    assert (quarter["share"], quarter["prompts"]) == (0.25, 1)
    assert half["margin"] == pytest.approx(0.49, rel=1e-4)
    assert router.asked == [4]


def test_the_table_names_the_threshold_and_what_ties_make_impossible(router: LengthRouter) -> None:
    result = calibrate(["a", "a", "a", "aaa"], "--strong-share", "0.5")
    assert result.exit_code == 0
    assert "0.25" in result.stdout
    assert "strong share 0.5 cannot be reached: 3 prompts have one win rate. The next threshold, 0, sends 1.0000" in (
        result.stderr
    )
    certain = calibrate(["a" * 10, "a"], "--strong-share", "0")
    assert "strong share 0 cannot be reached: 1 prompts have win rate 1" in certain.stderr


def test_the_pair_can_be_named_and_stdin_read(router: LengthRouter) -> None:
    arguments = ["calibrate", "--router", "length", "--on", "-", "--strong-share", "0.5"]
    result = CliRunner().invoke(main, [*arguments, "--strong", "big", "--weak", "small"], input="a\nbb\n")
    assert result.exit_code == 0, result.output
    assert router.models == {("big", "small")}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--strong-share", "1.5"], 2),
        (["--strong-share", "0.5", "--strong", "unknown", "--weak", "small"], 1),
        (["--strong-share", "0.5", "--router", "nowhere"], 2),
    ],
)
def test_wrong_usage_and_errors(router: LengthRouter, arguments: list[str], code: int) -> None:
    assert calibrate(["a"], *arguments).exit_code == code


def test_a_file_with_a_bad_line_or_without_prompts_is_refused(router: LengthRouter) -> None:
    assert "`prompt` must be a string" in calibrate([3], "--strong-share", "0.5").stderr  # type: ignore[list-item]
    Path("empty.jsonl").write_text("\n")
    result = CliRunner().invoke(main, ["calibrate", "--on", "empty.jsonl", "--strong-share", "0.5"])
    assert result.exit_code == 1
    blank = ["calibrate", "--on", "empty.jsonl", "--strong-share", "0.5", "--format", "batch"]
    assert "no prompts to calibrate on" in CliRunner().invoke(main, blank).stderr
