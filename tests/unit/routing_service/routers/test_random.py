"""The random router: seeded, stateless, uniform."""

from __future__ import annotations

import numpy as np
import pytest

from routing_service.errors import InvalidRequestError
from routing_service.routers.random import RandomRouter
from routing_service.routers.registry import Routers, make_router
from tests.support.factories import make_settings

PROMPTS = [f"prompt {n}" for n in range(4000)]


def test_a_prompt_draws_the_same_number_in_any_order_and_any_company() -> None:
    whole = RandomRouter(7).win_rates(PROMPTS, "s", "w")
    assert RandomRouter(7).win_rates(PROMPTS[::-1], "s", "w").tolist() == whole[::-1].tolist()
    assert RandomRouter(7).win_rates(PROMPTS[10:11], "s", "w")[0] == whole[10]


def test_another_seed_draws_other_numbers() -> None:
    assert (
        RandomRouter(1).win_rates(PROMPTS[:9], "s", "w").tolist()
        != RandomRouter(2).win_rates(PROMPTS[:9], "s", "w").tolist()
    )


def test_win_rates_are_uniform() -> None:
    rates = RandomRouter().win_rates(PROMPTS, "s", "w")
    assert rates.dtype == np.float32
    assert rates.min() >= 0
    assert rates.max() < 1
    assert np.histogram(rates, bins=4, range=(0, 1))[0].tolist() == pytest.approx([1000] * 4, rel=0.12)


def test_no_dearer_model_is_scored_below_the_cheapest() -> None:
    quality, std = RandomRouter().score(PROMPTS, ["weak", "strong"])
    assert quality.shape == std.shape == (4000, 2)
    assert set(quality[:, 0].tolist()) == {0.5}
    assert (quality[:, 1] >= 0.5).all()
    assert (quality[:, 1] < 1).all()


def test_nothing_to_score_gives_empty_arrays() -> None:
    assert RandomRouter().score([], ["weak", "strong"])[0].shape == (0, 2)
    assert RandomRouter().score(["a"], ["only"])[0].tolist() == [[0.5]]


def test_a_router_is_built_once() -> None:
    routers = Routers(make_settings())
    assert routers.get("random") is routers.get("random")


def test_an_unknown_router_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidRequestError, match="random") as caught:
        make_router("oracle", make_settings())
    assert caught.value.code == "router_not_found"
