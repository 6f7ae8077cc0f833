"""Prices, bounds and exact amounts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.errors import ConfigurationError
from routing_service.money.pricing import (
    NANO,
    NO_CAP,
    Price,
    PriceBook,
    Step,
    cost_nano,
    expected_nano,
    format_usd,
    input_bound,
    output_bound,
    price_book,
    to_nano,
    to_usd,
    worst_case_nano,
)
from routing_service.settings import ModelSettings
from tests.support.factories import WEAK, make_settings

PRICE = Price(input=10 * NANO, cached_input=NANO, output=30 * NANO)


def model(**values: Any) -> ModelSettings:
    return ModelSettings(**(WEAK | values))


def book(name: str, base_url: str = "https://api.openai.com/v1", **values: Any) -> PriceBook:
    return price_book(make_settings(models={"m": {"name": name, "base_url": base_url, **values}}, routing={}))


@given(st.integers(-(10**18), 10**18))
def test_an_amount_survives_dollars_and_their_text(nano: int) -> None:
    assert to_usd(nano) * NANO == nano
    assert Decimal(format_usd(nano)) == to_usd(nano)
    assert to_nano(to_usd(nano)) == nano


def test_dollars_show_two_decimals_and_no_needless_ones() -> None:
    shown = [format_usd(n) for n in (0, 5 * NANO, 12_300_000, 1, -1_500_000_000)]
    assert shown == ["0.00", "5.00", "0.0123", "0.000000001", "-1.50"]


def test_a_fraction_of_a_nano_dollar_rounds_down_as_a_limit_and_up_as_a_cost() -> None:
    assert to_nano(Decimal("0.0000000019")) == 1
    assert cost_nano(Price(1, 1, 1), 1, 1) == 1


def test_cached_tokens_pay_their_own_rate_and_never_exceed_the_input() -> None:
    assert cost_nano(PRICE, 1000, 10, 400) == (600 * 10 + 400 + 10 * 30) * 1000
    assert cost_nano(PRICE, 10, 0, 99) == 10 * 1000


def test_bounds_follow_the_cap_that_is_sent() -> None:
    m = model(max_output_tokens=512, overhead_tokens=16)
    assert input_bound(100, m) == 116
    assert [output_bound(cap, 2, m) for cap in (None, 100, 9999)] == [1024, 200, 1024]


def test_the_worst_case_counts_input_at_the_highest_rate() -> None:
    assert worst_case_nano(Price(1 * NANO, 2 * NANO, 0), 1_000_000, 0) == 2 * NANO


@given(st.integers(0, 10**6), st.none() | st.integers(1, 10**9), st.integers(1, 16), st.integers(1, 4096))
def test_what_is_expected_never_exceeds_the_worst_case_and_arrays_agree(
    size: int, cap: int | None, choices: int, most: int
) -> None:
    m = model(max_output_tokens=most)
    prices = PriceBook({"m": (Step(-1, PRICE), Step(200_000, Price(20 * NANO, 2 * NANO, 45_000_000_001)))})
    price = prices.price("m", input_bound(size, m))
    worst = worst_case_nano(price, input_bound(size, m), output_bound(cap, choices, m))
    expected = expected_nano(price, size, cap, choices, m)
    columns = (np.array([size]), np.array([NO_CAP if cap is None else cap]), np.array([choices]))
    assert 0 < expected <= worst
    assert prices.worst_cases("m", m, *columns).tolist() == [worst]
    assert prices.expected_costs("m", m, *columns).tolist() == [expected]


def test_predicted_tokens_take_the_priors_place_and_the_caps_bound_them() -> None:
    m = model(max_output_tokens=100, expected_output_tokens=50)
    n = 5
    columns = (np.zeros(n, int), np.array([NO_CAP, NO_CAP, NO_CAP, 10, 10]), np.array([1, 1, 3, 2, 2]))
    predicted = np.array([7.1, 1e9, 7.0, 7.0, 90.0])
    costs = PriceBook({"m": (Step(-1, PRICE),)}).expected_costs("m", m, *columns, predicted)
    assert costs.tolist() == [cost_nano(PRICE, m.overhead_tokens, tokens) for tokens in (8, 100, 21, 14, 20)]


def test_arrays_do_not_overflow_at_the_dearest_configurable_price() -> None:
    dearest = Price(10**15, 10**15, 10**15)
    m = model(max_output_tokens=100_000)
    worst = PriceBook({"m": (Step(-1, dearest),)}).worst_cases(
        "m", m, np.array([10**6]), np.array([NO_CAP]), np.array([1])
    )
    assert worst.tolist() == [worst_case_nano(dearest, input_bound(10**6, m), 100_000)]


def test_configured_prices_are_taken_exactly() -> None:
    price = book("x", input_usd_per_million=0.15, output_usd_per_million=0.6).price("m", 0)
    assert price == Price(150_000_000, 150_000_000, 600_000_000)


def test_a_known_model_is_priced_by_the_data_and_configuration_wins_key_by_key() -> None:
    known = book("gpt-4o-mini").price("m", 100)
    assert known == Price(150_000_000, 75_000_000, 600_000_000)
    assert book("gpt-4o-mini", output_usd_per_million=9).price("m", 100) == Price(150_000_000, 75_000_000, 9 * NANO)
    assert book("gpt-4o-mini", input_usd_per_million=9).price("m", 100) == Price(9 * NANO, 9 * NANO, 600_000_000)


def test_a_model_behind_an_unknown_host_is_priced_by_its_name() -> None:
    assert book("gpt-4o-mini", "http://127.0.0.1:9/v1").price("m", 1).output == 600_000_000


def test_a_bound_above_a_tiers_start_is_charged_at_that_tier() -> None:
    tiers = book("gpt-5.4")
    assert tiers.price("m", 272_000).input == 2_500_000_000
    assert tiers.price("m", 272_001) == Price(5 * NANO, 500_000_000, 22_500_000_000)


def test_writing_the_prompt_cache_counts_where_a_provider_charges_for_it() -> None:
    assert book("gpt-5.6-luna").price("m", 1).input == 250_000_000


def test_prices_that_change_by_the_hour_count_at_their_highest() -> None:
    assert book("deepseek-chat", "https://api.deepseek.com").price("m", 1).input == 270_000_000


def test_a_model_without_a_price_is_refused_by_key() -> None:
    with pytest.raises(ConfigurationError, match=r"models\.m\.input_usd_per_million: .* does not know 'nope'"):
        book("nope")
    with pytest.raises(ConfigurationError, match=r"models\.m\.output_usd_per_million"):
        book("nope", input_usd_per_million=1)
