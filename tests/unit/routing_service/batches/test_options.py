"""What a client may ask of routing: from `routing`, from metadata, and what is refused by name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from routing_service.batches.options import BatchOptions, parse_options
from routing_service.errors import InvalidRequestError
from tests.support.factories import make_settings


def parse(routing: dict[str, Any] | None = None, metadata: dict[str, str] | None = None) -> BatchOptions:
    return parse_options(routing, metadata, make_settings())


def test_defaults_are_the_plan_under_the_default_budget() -> None:
    options = parse()
    assert (options.budget, options.mode, options.on_budget, options.on_failure) == (Decimal(1), "plan", "stop", "fail")
    assert options.priority == 5
    assert options.router is None


@pytest.mark.parametrize("value", ["0.10", 0.1, Decimal("0.1"), " 0.1 "])
def test_a_budget_is_exact_however_it_is_written(value: Any) -> None:
    assert parse({"budget_usd": value}).budget == Decimal("0.1")


def test_options_are_stored_as_json_with_the_budget_as_a_string() -> None:
    stored = parse({"budget_usd": 0.1, "mode": "share", "strong_share": "0.25"}).model_dump(mode="json")
    assert stored["budget_usd"] == "0.1"
    assert stored["strong_share"] == 0.25
    assert parse(stored).model_dump(mode="json") == stored


def test_metadata_sets_options_and_routing_wins() -> None:
    metadata = {"budget_usd": "5.00", "mode": "threshold", "threshold": "0.3", "priority": "9", "team": "mine"}
    options = parse({"budget_usd": "2"}, metadata)
    assert (options.budget, options.mode, options.threshold, options.priority) == (Decimal(2), "threshold", 0.3, 9)


def test_null_is_as_good_as_not_given() -> None:
    assert parse({"budget_usd": None, "router": None}, {"budget_usd": "3"}).budget == Decimal(3)


def test_no_budget_and_no_default_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_options(None, {"team": "x"}, make_settings(budget={}))
    assert caught.value.code == "budget_required"


@pytest.mark.parametrize(
    "value", [0, "0", -1, "-0.01", 1e-10, 1_000_001, "1e400", "NaN", "Infinity", "$5", "", True, [], {}, "five"]
)
def test_what_is_no_budget_is_an_invalid_budget(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse({"budget_usd": value})
    assert caught.value.code == "invalid_budget"
    assert "budget" in str(caught.value)


@pytest.mark.parametrize(
    ("routing", "param", "code"),
    [
        ({"budget": 1}, "routing.budget", "unknown_parameter"),
        ({"mode": "magic"}, "routing.mode", "invalid_value"),
        ({"mode": ["plan"]}, "routing.mode", "invalid_value"),
        ({"priority": 10}, "routing.priority", "invalid_value"),
        ({"priority": -1}, "routing.priority", "invalid_value"),
        ({"priority": 1.5}, "routing.priority", "invalid_value"),
        ({"priority": "1e999999999"}, "routing.priority", "invalid_value"),
        ({"priority": True}, "routing.priority", "invalid_value"),
        ({"router": ""}, "routing.router", "invalid_value"),
        ({"mode": "share"}, "routing.strong_share", "missing_required_parameter"),
        ({"mode": "share", "strong_share": 1.1}, "routing.strong_share", "invalid_value"),
        ({"mode": "share", "strong_share": "1e999"}, "routing.strong_share", "invalid_value"),
        ({"mode": "threshold"}, "routing.threshold", "missing_required_parameter"),
        ({"mode": "threshold", "threshold": "NaN"}, "routing.threshold", "invalid_value"),
        ({"threshold": 0.5}, "routing.threshold", "invalid_value"),
        ({"mode": "threshold", "threshold": 0.5, "strong_share": 0.5}, "routing.strong_share", "invalid_value"),
        ({"mode": "target_quality"}, "routing.target_quality", "missing_required_parameter"),
        ({"mode": "target_quality", "target_quality": 1.5}, "routing.target_quality", "invalid_value"),
        ({"on_failure": "retry"}, "routing.on_failure", "invalid_value"),
        ({"target_quality": 0.5}, "routing.target_quality", "invalid_value"),
        ({"dedupe": True}, "routing.dedupe", "invalid_value"),
        ({"plan_id": "p"}, "routing.plan_id", "unsupported_parameter"),
        ({"explore_share": 1.1}, "routing.explore_share", "invalid_value"),
    ],
)
def test_a_wrong_option_is_named(routing: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(routing)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_wrong_option_in_metadata_is_named_as_such() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(None, {"priority": "high"})
    assert caught.value.param == "metadata.priority"
