"""How a caller's model is found among those that a router knows, by name, tier, role or position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from routing_service.embedding.registry import Floats
from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Vector
from routing_service.routers.bradley_terry.rated_models import Place, RatedModels, RatedRouter
from routing_service.routers.calibration import Calibration
from routing_service.settings import Settings
from tests.support.factories import STRONG, WEAK
from tests.support.routers.vectors import BrokenEncoder, WordEncoder

NAMES = ("gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1", "gemini-pro", "llama-7b")
RATED = RatedModels(NAMES, (2, 1, 1, 0), (3.0, 1.0, 0.5, -2.0))
TWO = RatedModels(("alpha", "beta"), (0, 1), (-1.0, 1.0))


def settings(routing: dict[str, Any] | None = None, **models: dict[str, Any]) -> Settings:
    return Settings.model_validate(
        {"models": {key: WEAK | more for key, more in models.items()}, "routing": routing or {}}
    )


def number(rated: RatedModels, name: str, given: Settings, *, stronger: bool = True) -> int | None:
    return rated.place(name, given, stronger=stronger).model


def test_a_model_is_known_by_what_it_is_rated_as_then_its_key_then_its_name() -> None:
    given = settings(
        cheap={"name": "gemini-pro", "rated_as": "llama-7b"}, **{"gemini-pro": {"name": "x"}}, big={"name": NAMES[0]}
    )
    assert number(RATED, "cheap", given) == 3
    assert number(RATED, "gemini-pro", given) == 2
    assert number(RATED, "big", given) == 0
    assert number(RATED, NAMES[1], given) == 1  # not configured at all


@pytest.mark.parametrize(
    "name",
    ["mixtral-8x7b-instruct-v0.1", "MISTRALAI/mixtral-8x7B-Instruct-v0.1", "together/Mixtral-8x7B-Instruct-v0.1"],
)
def test_providers_and_capitals_do_not_matter(name: str) -> None:
    assert number(RATED, name, settings()) == 1
    assert number(RATED, "m", settings(m={"name": name})) == 1


def test_names_that_only_look_alike_twice_are_not_guessed_at() -> None:
    rated = RatedModels(("a/m", "b/m", "c"), (0, 1, 2), (0.0, 1.0, 2.0))
    assert number(rated, "b/m", settings()) == 1
    with pytest.raises(ScoringError):
        rated.place("m", settings(), stronger=True)


def test_an_unknown_model_takes_part_by_its_tier() -> None:
    given = settings(new={"name": "gpt-9", "tier": 1}, other={"name": "gpt-9", "rated_as": "gpt-8", "tier": 0})
    assert RATED.place("new", given, stronger=True) == Place(1)
    assert RATED.place("other", given, stronger=True) == Place(0)
    with pytest.raises(ScoringError, match=r"models\.new\.tier is 7.*0 \(weakest\) to 2"):
        RATED.place("new", settings(new={"name": "gpt-9", "tier": 7}), stronger=True)


def test_a_model_that_cannot_be_placed_is_an_error_that_says_what_to_set() -> None:
    given = settings(new={"name": "gpt-9", "rated_as": "gpt-8"})
    with pytest.raises(
        ScoringError, match=r"'new' \(rated_as 'gpt-8'\).*gemini-pro.*models\.new\.rated_as.*models\.new\.tier"
    ):
        RATED.place("new", given, stronger=True)


def test_many_known_models_are_not_all_listed() -> None:
    rated = RatedModels(tuple(f"m{i:03}" for i in range(100)), (0,) * 100, (0.0,) * 100)
    with pytest.raises(ScoringError, match=r"m000, m001.*and 88 more") as caught:
        rated.place("x", settings(), stronger=True)
    assert "m050" not in str(caught.value)


def test_the_roles_are_the_pair_that_the_router_was_fitted_for() -> None:
    rated = RatedModels(NAMES, RATED.tiers, RATED.ratings, ("gemini-pro", "llama-7b"))
    assert [number(rated, role, settings()) for role in ("strong", "weak")] == [2, 3]
    # A configured tier says more than the key's wording does.
    assert rated.place("strong", settings(strong={"name": "x", "tier": 2}), stronger=True) == Place(2)


def test_without_a_pair_the_roles_are_the_dearest_and_the_cheapest_candidate() -> None:
    models = {"a": {"rated_as": "llama-7b"}, "b": {"rated_as": "gemini-pro"}, "c": {"rated_as": NAMES[0]}}
    given = settings({"candidates": ["a", "b", "c"]}, **models)
    assert [number(RATED, role, given) for role in ("strong", "weak")] == [0, 3]
    with pytest.raises(ScoringError, match=r"no pair of models.*routing\.candidates"):
        RATED.place("strong", settings(), stronger=True)


def test_of_two_known_models_any_dearer_one_is_the_stronger() -> None:
    assert [number(TWO, "x", settings(), stronger=stronger) for stronger in (True, False)] == [1, 0]
    named = RatedModels(TWO.names, TWO.tiers, TWO.ratings, ("alpha", "beta"))
    assert number(named, "x", settings(), stronger=True) == 0
    assert number(named, "beta", settings(), stronger=True) == 1  # a known name is never taken by position


def test_what_is_saved_is_read_back() -> None:
    for rated in (RATED, RatedModels(NAMES, RATED.tiers, RATED.ratings, (NAMES[0], NAMES[3]))):
        assert RatedModels.from_dict(rated.as_dict()) == rated


MODEL = {"name": "a", "tier": 0, "rating": 0.0}
OTHER = {"name": "b", "tier": 1, "rating": 1.0}


@pytest.mark.parametrize(
    "saved",
    [
        None,
        {},
        {"models": None, "pair": None},
        {"models": [], "pair": None},
        {"models": [MODEL], "pair": None},
        {"models": [MODEL, MODEL], "pair": None},
        {"models": [MODEL, {"name": "b"}], "pair": None},
        {"models": [MODEL, OTHER | {"name": 7}], "pair": None},
        {"models": [MODEL, OTHER | {"tier": 2}], "pair": None},
        {"models": [MODEL, OTHER | {"tier": True}], "pair": None},
        {"models": [MODEL, OTHER | {"tier": "1"}], "pair": None},
        {"models": [MODEL, OTHER | {"rating": float("nan")}], "pair": None},
        {"models": [MODEL, OTHER | {"rating": None}], "pair": None},
        {"models": [MODEL, OTHER], "pair": ["a", "c"]},
        {"models": [MODEL, OTHER], "pair": ["a"]},
        {"models": [MODEL, OTHER], "pair": "ab"},
        {"models": [MODEL, OTHER], "pair": [["a"], "b"]},
        {"models": [MODEL, OTHER | {"name": ["b"]}], "pair": None},
    ],
)
def test_damaged_lists_of_models_are_refused(saved: Any) -> None:
    with pytest.raises(ArtifactError):
        RatedModels.from_dict(saved)


class LengthRouter(RatedRouter):
    """A model's strength is its tier times the sum of the vector."""

    name = "length"

    def strengths(self, vectors: Floats, places: Sequence[Place]) -> Vector:
        strengths: Vector = vectors.sum(axis=1, keepdims=True).astype(np.float64) * [place.tier for place in places]
        return strengths

    def tensors(self) -> Tensors:
        return {}

    def explain(self, prompt: str) -> dict[str, Any]:
        return {}

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> LengthRouter:
        return cls(RATED, WordEncoder(), settings)


def test_pairs_are_scored_by_the_difference_of_their_strengths() -> None:
    encoder = WordEncoder()
    router = LengthRouter(RATED, encoder, settings())
    prompts = [f"word{i} of {i}" for i in range(5000)]
    rates = router.raw_win_rates(prompts, [(NAMES[0], "llama-7b"), ("llama-7b", NAMES[0]), ("gemini-pro", NAMES[1])])
    x = 2 * encoder.encode(prompts).sum(axis=1).astype(float)
    assert rates[:, 0] == pytest.approx(1 / (1 + np.exp(-x)))
    assert rates[:, 0] + rates[:, 1] == pytest.approx(np.ones(5000))
    assert (rates[:, 2] == 0.5).all()  # models of one tier


def test_calibration_holds_for_a_pair_named_either_way_and_not_between_equals() -> None:
    line = Calibration(1.5, -0.6)
    router = LengthRouter(RATED, WordEncoder(), settings(), line)
    prompts = ["some words", "other words"]
    there, back = (router.win_rates(prompts, *pair) for pair in ((NAMES[0], NAMES[3]), (NAMES[3], NAMES[0])))
    raw = router.raw_win_rates(prompts, [(NAMES[0], NAMES[3])])[:, 0]
    assert there == pytest.approx(line.apply(raw), abs=1e-6)
    assert there + back == pytest.approx(np.ones(2), abs=1e-6)
    assert router.win_rates(prompts, NAMES[1], NAMES[2]).tolist() == [0.5, 0.5]  # models of one tier
    assert router.win_rates(prompts, NAMES[0], NAMES[0]).tolist() == [0.5, 0.5]
    columns = router.score(prompts, [NAMES[3], NAMES[0]])[0], router.score(prompts, [NAMES[0], NAMES[3]])[0]
    assert columns[0][:, 1] + columns[1][:, 1] == pytest.approx(np.ones(2), abs=1e-6)


def test_a_calibration_saved_as_whole_numbers_is_applied_however_large() -> None:
    calibration = Calibration.from_dict({"scale": 2, "offset": 2**63, "std": 0})
    assert calibration.apply(np.array([0.5]), [1]).tolist() == [1.0]


def test_the_strong_one_of_a_named_pair_is_the_stronger_whatever_its_tier() -> None:
    line = Calibration(1.0, 0.8)
    pairs = [(NAMES[1], NAMES[2]), (NAMES[2], NAMES[1]), (NAMES[3], NAMES[0])]
    router = LengthRouter(replace(RATED, pair=(NAMES[1], NAMES[2])), WordEncoder(), settings(), line)
    assert router.sides(pairs) == [1, -1, -1]


def test_qualities_are_relative_to_the_cheapest_and_no_model_alone_is_looked_up() -> None:
    router = LengthRouter(RATED, WordEncoder(), settings())
    quality, std = router.score(["some words"], ["llama-7b", "gemini-pro", NAMES[0]])
    assert quality.shape == std.shape == (1, 3)
    assert quality[0, 0] == 0.5
    assert router.score(["a"], ["nobody knows this one"])[0].tolist() == [[0.5]]
    assert router.score([], ["llama-7b", "gemini-pro"])[0].shape == (0, 2)


def test_a_vector_that_is_no_number_is_named() -> None:
    router = LengthRouter(RATED, BrokenEncoder(), settings())
    with pytest.raises(ScoringError, match="prompt 3"):
        router.win_rates(["fine", "fine too", "broken"], NAMES[0], "llama-7b")


def test_what_is_explained_is_the_pair_or_the_candidates_or_the_extremes() -> None:
    candidates = settings({"candidates": ["m", "n"]}, m={"rated_as": "gemini-pro"}, n={"rated_as": NAMES[0]})
    strangers = settings({"candidates": ["m", "n"]}, m=STRONG, n=WEAK)
    paired = RatedModels(NAMES, RATED.tiers, RATED.ratings, (NAMES[1], NAMES[3]))
    assert LengthRouter(RATED, WordEncoder(), candidates).explained_pair() == ("n", "m")
    assert LengthRouter(RATED, WordEncoder(), strangers).explained_pair() == (NAMES[0], NAMES[3])
    assert LengthRouter(paired, WordEncoder(), candidates).explained_pair() == (NAMES[1], NAMES[3])
