"""`on_failure: "fallback"`: what one model does not answer goes to another, money permitting, never twice to one."""

from __future__ import annotations

from typing import Any

import pytest

from routing_service.batches.view import add_up
from routing_service.db import Database
from routing_service.money import ledger
from tests.support.planned import NANO, Planned
from tests.support.upstreams.scripted import WITHDRAWN, Stage, cheap, dear

FALLBACK = {"on_failure": "fallback"}
BROKEN = (500, {"error": {"message": "oops", "code": "oops"}})
OTHER = (503, {"error": {"message": "busy", "code": "busy"}})


@pytest.fixture
def stage(database: Database) -> Stage:
    return Stage(database, max_attempts=2)


def asked(stage: Stage) -> list[str]:
    """The models of a single line's attempts, in their order."""
    return [model for (model,) in stage.rows("select model from attempts order by number")]


def assert_sound(stage: Stage) -> None:
    sums = "select floor_nano, reserved_nano from batches join budgets on budgets.batch_id = batches.id"
    assert stage.rows(sums) == [(0, 0)]
    with stage.database.transaction() as session:
        assert ledger.verify(session) == []


@pytest.mark.parametrize(("line", "first", "other"), [(dear(1), "strong", "weak"), (cheap(1), "weak", "strong")])
def test_a_request_goes_to_the_other_model_when_its_attempts_are_used_up(
    stage: Stage, line: list[Planned], first: str, other: str
) -> None:
    batch_id = stage.plan(*line, options=FALLBACK)
    stage.script = {"refusing": {first: BROKEN}}
    stage.pump()
    assert asked(stage) == [first, first, other]
    decided = stage.rows("select number, model, reason::text from decisions order by number")
    assert decided == [(1, first, "plan"), (2, first, "plan"), (3, other, "fallback")]
    assert stage.rows("select state::text, model, reason::text, error_code from requests") == [
        ("succeeded", other, "fallback", None)
    ]
    with stage.database.transaction() as session:
        totals = add_up(session, [batch_id])[batch_id]
    assert (totals.by_model, totals.by_reason) == ({other: 1}, {"fallback": 1})
    assert_sound(stage)


def test_the_other_model_has_attempts_of_its_own_and_the_last_cause_counts(stage: Stage) -> None:
    stage.plan(*dear(1), options=FALLBACK)
    stage.script = {"refusing": {"strong": BROKEN, "weak": OTHER}}
    stage.pump()
    assert asked(stage) == ["strong", "strong", "weak", "weak"]
    assert stage.rows("select state::text, error_code from requests") == [("failed", "busy")]
    assert_sound(stage)


def test_of_several_models_the_cheapest_others_are_asked_each_once(stage: Stage) -> None:
    stage.models = {"mid": {"input_usd_per_million": "1", "output_usd_per_million": "2"}}
    stage.settings = stage.configured()
    stage.plan(*dear(1), options=FALLBACK)
    stage.change("update batches set candidates = '{weak,mid,strong}'")
    stage.change("update requests set quality = '{0.5,0.5,0.9}', expected_cost_nano = '{1000,9000,50000}'")
    stage.script = {"refusing": {"weak": BROKEN, "mid": BROKEN, "strong": OTHER}}
    stage.pump()
    assert asked(stage) == ["strong", "strong", "weak", "weak", "mid", "mid"]
    assert stage.rows("select state::text, error_code from requests") == [("failed", "oops")]
    assert_sound(stage)


@pytest.mark.parametrize("options", [{}, {"on_budget": "wait"}])
def test_what_does_not_fit_the_budget_ends_with_its_last_cause(stage: Stage, options: dict[str, Any]) -> None:
    stage.plan(*cheap(1), options=FALLBACK | options, budget_nano=200_000)
    stage.script = {"refusing": {"weak": BROKEN}}
    stage.pump()
    assert asked(stage) == ["weak", "weak"]
    assert stage.rows("select state::text, error_code, error_message from requests") == [("failed", "oops", "oops")]
    assert stage.rows("select failed, paused from batches") == [(1, None)]
    assert_sound(stage)


def test_a_fallback_leaves_the_floor_of_all_others(stage: Stage) -> None:
    """There is money for the strong model, but then the other lines could not be paid."""
    stage.plan(*cheap(1), *dear(1), options=FALLBACK, budget_nano=2_200_000, floor_each=800_000)
    stage.change("update requests set not_before = now() + interval '1 hour' where line = 2")
    stage.script = {"refusing": {"weak": BROKEN}}
    stage.pump()
    assert asked(stage) == ["weak", "weak"]
    assert stage.rows("select state::text from requests order by line") == [("failed",), ("scored",)]


@pytest.mark.parametrize("change", [{"pinned": "strong"}, {}])
def test_what_is_pinned_and_batches_that_do_not_allow_it_stay_with_their_model(
    stage: Stage, change: dict[str, Any]
) -> None:
    stage.plan(Planned(ratio=float("inf"), **change), options=FALLBACK if change else {})
    stage.script = {"refusing": {"strong": BROKEN}}
    stage.pump()
    assert asked(stage) == ["strong", "strong"]
    assert stage.states() == {"failed": 1}


@pytest.mark.parametrize(
    ("status", "code", "models"),
    [
        (400, "context_length_exceeded", ["weak", "strong"]),
        (413, "too_large", ["weak", "strong"]),
        (400, "content_filter", ["weak"]),
        (400, "bad_value", ["weak"]),
        (404, "model_not_found", ["weak"]),
    ],
)
def test_what_is_too_long_for_one_model_may_fit_another_and_what_is_refused_is_not_asked_elsewhere(
    stage: Stage, status: int, code: str, models: list[str]
) -> None:
    stage.plan(*cheap(1), options=FALLBACK, budget_nano=NANO)
    stage.script = {"refusing": {"weak": (status, {"error": {"message": "no", "code": code}})}}
    stage.pump()
    assert asked(stage) == models


def test_a_refused_key_is_waited_for_not_fallen_back_from(stage: Stage) -> None:
    stage.plan(*dear(3), options=FALLBACK)
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    assert stage.states() == {"scored": 3}
    assert stage.rows("select paused from batches") == [("model_refused",)]
