"""Which prompts a re-fit holds out, and what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import STRONG, WEAK, make_settings
from training.data.comparisons import Comparisons
from training.refit.snapshot import Snapshot, _names, split

PAIR = ("strong", "weak")
Row = tuple[str, float, int, bool]  # prompt, outcome, when, live


def snapshot(rows: list[Row], model_b: list[int] | None = None) -> Snapshot:
    prompts = list(dict.fromkeys(row[0] for row in rows))
    n = len(rows)
    comparisons = Comparisons(
        prompts,
        ["strong", "weak", "other"],
        np.array([prompts.index(row[0]) for row in rows], np.int32),
        np.zeros(n, np.int32),
        np.array(model_b or [1] * n, np.int32),
        np.array([row[1] for row in rows], float),
        np.ones(n),
        ["golden"] * n,
        PAIR,
    )
    came, live = np.array([row[2] for row in rows], float), np.array([row[3] for row in rows], bool)
    return Snapshot(comparisons, came, live, (1, n), 0)


ROWS = st.lists(
    st.tuples(st.sampled_from("aAbcde fg"), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 9), st.booleans()),
    min_size=1,
    max_size=40,
)


@given(ROWS, st.floats(0, 1), st.integers(0, 9))
def test_no_prompt_stands_on_both_sides_and_what_is_held_out_is_newer(rows: list[Row], share: float, seed: int) -> None:
    parts = split(snapshot(rows), share, seed)
    fitted, held = {p.casefold() for p in parts.fitted.prompts}, {p.casefold() for p in parts.held.prompts}
    everything = {row[0].casefold() for row in rows}
    assert fitted | held == everything
    assert not fitted & held
    assert len(held) == round(share * len(everything))
    first = {text: min(row[2] for row in rows if row[0].casefold() == text) for text in everything}
    if fitted and held:
        assert max(first[text] for text in fitted) <= min(first[text] for text in held)
    again = split(snapshot(rows), share, seed)
    assert (again.held.prompts, again.fitted.fingerprint()) == (parts.held.prompts, parts.fitted.fingerprint())


def test_prompts_that_came_at_once_are_drawn_by_the_seed() -> None:
    rows = [(f"prompt {n}", 1.0, 7, False) for n in range(200)]
    halves = [set(split(snapshot(rows), 0.5, seed).held.prompts) for seed in (0, 1)]
    assert 25 < len(halves[0] & halves[1]) < 75


def test_what_is_held_out_counts_each_prompt_once_by_the_mean_of_its_comparisons() -> None:
    rows = [("old", 0.5, 0, False), ("New  one", 1.0, 5, True), ("new one", 0.5, 6, False), ("new one", 0.0, 7, True)]
    parts = split(snapshot(rows), 0.5, 0)
    assert (parts.held.prompts, parts.held.gain.tolist(), parts.held.weight.tolist()) == (["New  one"], [0.0], [3.0])
    assert (parts.live.gain.tolist(), parts.live.weight.tolist()) == ([0.0], [2.0])
    assert parts.fitted.prompts == ["old"]


def test_other_models_on_a_held_out_prompt_are_not_fitted_on_and_do_not_judge() -> None:
    rows = [("old", 0.5, 0, False), ("new", 1.0, 5, False), ("new", 0.0, 1, False), ("elsewhere", 1.0, 9, False)]
    parts = split(snapshot(rows, model_b=[1, 1, 2, 2]), 0.5, 0)
    assert parts.held.gain.tolist() == [1.0]
    assert set(parts.fitted.prompts) == {"old", "elsewhere"}


def test_a_fingerprint_tells_when_and_whence_comparisons_came() -> None:
    one = snapshot([("a", 1.0, 0, False), ("b", 0.0, 1, False)])
    assert one.fingerprint() == snapshot([("a", 1.0, 0, False), ("b", 0.0, 1, False)]).fingerprint()
    for changed in (("b", 0.0, 2, False), ("b", 0.0, 1, True), ("b", 0.5, 1, False), ("c", 0.0, 1, False)):
        assert one.fingerprint() != snapshot([("a", 1.0, 0, False), changed]).fingerprint()


def test_models_are_known_by_key_upstream_name_and_what_data_call_them() -> None:
    settings = make_settings(
        models={
            "big": STRONG | {"name": "gpt-x", "rated_as": "gpt-x-turbo"},
            "small": WEAK | {"name": "shared"},
            "other": WEAK | {"name": "shared"},
        },
        routing={"candidates": ["small", "big"]},
    )
    names = _names(settings, ("big", "small"))
    assert {name: names[name] for name in ("big", "gpt-x", "gpt-x-turbo", "strong")} == dict.fromkeys(
        ("big", "gpt-x", "gpt-x-turbo", "strong"), "big"
    )
    assert names["weak"] == names["small"] == "small"
    assert "shared" not in names


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_may_be_held_out(share: float) -> None:
    parts = split(snapshot([("a", 1.0, 0, False), ("b", 0.0, 1, True)]), share, 0)
    assert (len(parts.held), len(parts.fitted)) == (2 * share, 2 - 2 * share)
