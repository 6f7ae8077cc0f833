"""Ensembles: a calibrated mean of routers, fitted, saved, loaded and explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing_service.errors import ArtifactError
from routing_service.routers import artifact
from routing_service.routers.calibration import Calibration
from routing_service.routers.ensemble import EnsembleRouter, Member
from routing_service.routers.registry import METHODS as ROUTERS
from routing_service.routers.registry import load_router
from tests.support.factories import make_settings
from tests.support.routers.labelled import ODD, labels, sums
from tests.support.routers.length_method import LengthRouter
from training.data.comparisons import Comparisons
from training.data.labels import DataError, Labels
from training.fit.ensemble import EnsembleOptions, fit, stacked
from training.fit.methods import METHODS


@pytest.fixture(autouse=True, scope="module")
def length_method() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROUTERS, "lengths", "tests.support.routers.length_method:LengthRouter")
        patch.setitem(METHODS, "lengths", "tests.support.routers.length_method:LengthOptions")
        yield


def ensemble(data: Labels, *, seed: int = 0, **options: Any) -> EnsembleRouter:
    given: dict[str, Any] = {"methods": "gain,lengths", "calibration_share": 0.4} | options
    chosen = EnsembleOptions(**given)
    comparisons = Comparisons.from_labels(data)
    return fit(comparisons, seed=seed, options=chosen, settings=make_settings())


@pytest.fixture(scope="module")
def data() -> Labels:
    """Prompts of many lengths, which say nothing."""
    short = sums(260)
    return labels([text + " please" * (i % 8) for i, text in enumerate(short.prompts)], short.gain.tolist())


@pytest.fixture(scope="module")
def fitted(length_method: None, data: Labels) -> EnsembleRouter:
    return ensemble(data)


@pytest.fixture
def pair() -> list[Member]:
    return [Member(LengthRouter(1), 0.75), Member(LengthRouter(0.2), 0.25)]


def test_the_win_rate_is_the_weighted_mean_of_the_members(pair: list[Member]) -> None:
    router = EnsembleRouter(pair)
    prompts = ["a" * 50, ""]
    assert router.win_rates(prompts, "strong", "weak") == pytest.approx([0.75 * 0.75 + 0.25 * 0.55, 0.5])
    quality, std = router.score(prompts, ["weak", "mid", "strong"])
    assert quality.dtype == std.dtype == np.float32
    assert quality[:, 0].tolist() == [0.5, 0.5]
    assert quality[:, 2].tolist() == router.win_rates(prompts, "strong", "weak").tolist()
    assert quality[:, 1].tolist() == router.win_rates(prompts, "mid", "weak").tolist()
    assert router.score([], ["weak", "strong"])[0].shape == (0, 2)


def test_the_spread_is_that_of_the_members_and_their_disagreement(pair: list[Member]) -> None:
    std = EnsembleRouter(pair).score(["", "a" * 50], ["weak", "strong"])[1]
    own = pair[0].router.score([""], ["weak", "strong"])[1][0, 1]
    apart = np.sqrt(0.75 * 0.25) * (0.75 - 0.55)
    assert std[:, 0].tolist() == [0, 0]
    assert std[:, 1] == pytest.approx([own, np.hypot(own, apart)])


def test_calibration_moves_win_rates_and_spread_but_not_the_cheapest_model(pair: list[Member]) -> None:
    plain, halved = EnsembleRouter(pair), EnsembleRouter(pair, Calibration(0.5, 0.3, 0.1))
    prompts = ["a" * n for n in (0, 30, 60, 1000)]
    before, after = (router.win_rates(prompts, "strong", "weak") for router in (plain, halved))
    assert after == pytest.approx(halved.calibration.apply(before.astype(float)), abs=1e-6)
    quality, std = halved.score(prompts, ["weak", "strong"])
    assert quality[:, 0].tolist() == [0.5] * 4
    assert (std[1:3, 1] < plain.score(prompts, ["weak", "strong"])[1][1:3, 1]).all()
    assert ((std >= 0) & (std <= 1)).all()


def test_an_explanation_holds_those_of_the_members(pair: list[Member]) -> None:
    why = EnsembleRouter(pair, Calibration(2, 0.1, 0.1)).explain("a" * 50)
    assert why["router"] == "ensemble"
    assert why["win_rate"] == pytest.approx(
        EnsembleRouter(pair, Calibration(2, 0.1, 0.1)).win_rates(["a" * 50], "strong", "weak")[0]
    )
    assert [(one["weight"], one["router"]) for one in why["members"]] == [(0.75, "lengths"), (0.25, "lengths")]


def test_fitted_members_learn(fitted: EnsembleRouter) -> None:
    hard, easy = fitted.win_rates(["Tell me 7 things of ring field", "Tell me 7 things of paint shade"], "s", "w")
    assert hard > easy
    assert fitted.metadata["data"]["rows"] == 260


def test_the_mean_is_calibrated_on_held_out_prompts(data: Labels) -> None:
    # The members say that strong mostly wins, and the labels that it mostly loses.
    router = ensemble(labels(data.prompts, (-data.gain).tolist()), methods="lengths", seeds=2)
    measured = router.metadata["metrics"]["calibration"]
    assert measured["applied"]
    assert measured["error_after"] < measured["error_before"]
    assert router.win_rates(data.prompts, "strong", "weak").max() < 0.5
    assert EnsembleRouter(router.members).win_rates(data.prompts, "strong", "weak").min() > 0.5


def test_a_member_whose_win_rates_hardly_spread_weighs_as_much_as_one_whose_do(
    data: Labels, fitted: EnsembleRouter
) -> None:
    wide, narrow = fitted.members
    assert wide.weight + narrow.weight == pytest.approx(1)
    assert narrow.weight > 0.6
    spread = [one.weight * one.router.win_rates(data.prompts, "strong", "weak").std() for one in (narrow, wide)]
    assert spread[0] == pytest.approx(spread[1], rel=0.5)


def test_any_prompt_gets_a_win_rate_and_an_explanation(fitted: EnsembleRouter) -> None:
    quality, std = fitted.score(ODD, ["weak", "strong"])
    assert ((quality >= 0) & (quality <= 1) & (std >= 0) & (std <= 1)).all()
    for prompt in ODD:
        json.dumps(fitted.explain(prompt))


def test_the_same_seed_gives_the_same_router_and_seeds_add_members() -> None:
    prompts = sums(20, seed=5).prompts
    first, again = (ensemble(sums(60), seed=3, methods="gain", seeds=2) for _ in range(2))
    assert first.win_rates(prompts, "s", "w").tolist() == again.win_rates(prompts, "s", "w").tolist()
    assert [member.router.metadata["seed"] for member in first.members] == [3, 4]  # type: ignore[attr-defined]


def test_a_saved_ensemble_is_the_same_when_loaded(fitted: EnsembleRouter, tmp_path: Path) -> None:
    router = fitted
    router.save(tmp_path / "e")
    loaded = load_router(tmp_path / "e", make_settings())
    assert isinstance(loaded, EnsembleRouter)
    prompts = [*sums(50, seed=8).prompts, *ODD]
    for before, after in zip(router.score(prompts, ["w", "s"]), loaded.score(prompts, ["w", "s"]), strict=True):
        assert before.tolist() == after.tolist()
    assert loaded.metadata == router.metadata
    assert loaded.explain(prompts[0]) == router.explain(prompts[0])


def test_few_labels_give_a_plain_mean() -> None:
    router = ensemble(sums(40))
    assert [member.weight for member in router.members] == [0.5, 0.5]
    assert router.calibration == Calibration()
    assert router.metadata["metrics"]["calibration"]["held_out"] == 0


def test_without_a_pair_of_models_the_mean_is_plain() -> None:
    data = Comparisons.from_labels(sums(300))
    unpaired = Comparisons(
        data.prompts, data.models, data.prompt, data.model_a, data.model_b, data.outcome, data.weight, data.source
    )
    options = EnsembleOptions(methods="lengths", seeds=2)
    router = fit(unpaired, seed=0, options=options, settings=make_settings())
    assert router.calibration == Calibration()
    assert router.metadata["pair"] is None


def test_weights_may_be_equal_or_stacked(data: Labels) -> None:
    knows, does_not = ensemble(data, weights="stacked").members
    assert knows.weight + does_not.weight == pytest.approx(1)
    for options in ({"weights": "equal"}, {"calibration_share": 0.0}):
        router = ensemble(data, methods="lengths", seeds=2, **options)
        assert [member.weight for member in router.members] == [0.5, 0.5]


def test_stacking_gives_the_weight_to_who_knows() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.95, 4000)
    outcome = (random.random(4000) < truth).astype(float)
    rates = np.c_[truth, random.uniform(0.05, 0.95, 4000), 1 - truth]
    weights = stacked(rates, outcome, np.ones(4000))
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert weights[0] > 0.9
    few = stacked(rates[:20], outcome[:20], np.ones(20))
    assert np.abs(few - 1 / 3).max() < np.abs(weights - 1 / 3).max()


def test_stacking_is_finite_where_members_are_certain_or_all_wrong() -> None:
    outcome = np.repeat([0.0, 1.0], 100)
    assert np.isfinite(stacked(np.c_[outcome, 1 - outcome], outcome, np.ones(200))).all()
    assert stacked(np.c_[1 - outcome, 1 - outcome], outcome, np.ones(200)) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"methods": "gain"}, "2 to 32 members"),
        ({"methods": ""}, "2 to 32 members"),
        ({"methods": "gain,gain"}, "twice"),
        ({"methods": "gain,ensemble"}, "member of an ensemble"),
        ({"methods": "gain,nonsense"}, "'nonsense' is none of"),
        ({"methods": "gain,lengths", "seeds": 17}, "2 to 32 members"),
        ({"methods": "gain,lengths", "seeds": 0}, "2 to 32 members"),
        ({"methods": "gain,lengths", "calibration_share": 0.9}, "calibration_share"),
        ({"methods": "gain,lengths", "weights": "best"}, "'best' is none of spread, equal, stacked"),
    ],
)
def test_options_that_make_no_ensemble_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        EnsembleOptions(**options)


MEMBER = {"kind": "lengths", "weight": 1.0, "metadata": {}}


@pytest.mark.parametrize(
    "members",
    [
        None,
        [],
        [MEMBER | {"weight": 1 / 33}] * 33,
        ["lengths"],
        [{"kind": "lengths"}],
        [MEMBER | {"kind": "ensemble"}],
        [MEMBER | {"kind": "unheard of"}],
        [MEMBER | {"kind": ["lengths"]}],
        [MEMBER | {"weight": -1.0}, MEMBER | {"weight": 2.0}],
        [MEMBER | {"weight": None}],
        [MEMBER | {"weight": 0.5}],
        [MEMBER | {"metadata": 3}],
        [MEMBER | {"weight": 0.5}, MEMBER | {"weight": 0.5}],  # there are tensors of one
    ],
)
def test_artifacts_whose_members_cannot_be_are_refused(members: Any, tmp_path: Path) -> None:
    tensors = {"0.slope": np.ones(1, np.float32)}
    artifact.write(tmp_path, "ensemble", tensors, {"members": members})
    with pytest.raises(ArtifactError):
        load_router(tmp_path, make_settings())
