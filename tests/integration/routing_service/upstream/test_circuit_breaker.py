"""Circuits with a real pump: a model that refuses us or fails again and again is left alone, and nothing is lost."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from cli.main import main
from routing_service.db import Database
from routing_service.events import DispatchDue
from routing_service.money.pricing import price_book
from routing_service.plans.replan import replan
from routing_service.upstream import circuit_breaker
from routing_service.upstream.outcome import read_answer
from tests.support.planned import Planned
from tests.support.upstreams.scripted import ANSWER, WITHDRAWN, Stage, cheap, dear


@pytest.fixture
def stage(database: Database) -> Stage:
    return Stage(database)


@contextmanager
def trials_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        circuit_breaker,
        "TRIAL_DELAYS",
        dict.fromkeys(circuit_breaker.TRIAL_DELAYS, circuit_breaker.TrialDelays(0, 1e-6, 1e-6)),
    )
    yield


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_pauses_the_batch_instead_of_failing_its_lines(
    stage: Stage, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    stage.plan(*dear(100), *cheap(20))
    stage.script = {"refusing": {"strong": (status, WITHDRAWN)}}
    stage.pump()
    assert stage.states() == {"scored": 100, "succeeded": 20}
    assert stage.upstreams.called("strong") <= 64  # what was in flight, and what followed before that was settled
    ((paused, reason),) = stage.rows("select paused, paused_reason from batches")
    assert paused == "model_refused"
    assert f"'strong' refuses calls ({status}: Incorrect API key provided: sk-***)" in reason
    assert stage.rows("select reserved_nano from budgets") == [(0,)]
    assert stage.rows("select distinct tries from requests where state = 'scored'") == [(0,)]
    assert [r.levelno for r in caplog.records if "refuses our calls" in r.message] == [logging.ERROR]
    assert "routebatch models reset strong" in caplog.text
    assert "abcdefghijkl" not in caplog.text + reason


def test_other_batches_and_lines_pinned_to_other_models_go_on(stage: Stage) -> None:
    pinned = [Planned(ratio=float("-inf"), pinned="strong") for _ in range(70)]
    mixed = stage.plan(*pinned, *cheap(10), Planned(ratio=float("-inf"), pinned="weak"))
    other = stage.plan(*cheap(5))
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    counts = stage.rows("select batch_id, state::text, count(*) from requests group by 1, 2")
    assert set(counts) == {(mixed, "succeeded", 11), (mixed, "scored", 70), (other, "succeeded", 5)}
    assert dict(stage.rows("select id, paused from batches")) == {mixed: "model_refused", other: None}


def test_a_batch_that_waits_for_probes_goes_on_without_those_of_a_model_that_is_left_alone(stage: Stage) -> None:
    weak = [Planned(ratio=float("-inf"), pinned="weak") for _ in range(40)]
    batch_id = stage.plan(*dear(10), *weak)
    stage.change("update batches set probes = 4")
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    assert stage.states() == {"scored": 46, "succeeded": 4}
    assert replan(stage.database, stage.settings, price_book(stage.settings), batch_id)
    stage.pump()
    assert stage.states() == {"scored": 10, "succeeded": 40}
    stage.pump()  # on a busy machine the last one may have ended before it looked at what was left
    assert stage.rows("select paused from batches") == [("model_refused",)]


def test_a_paused_batch_is_not_resumed_before_it_is_time_for_a_trial(stage: Stage) -> None:
    stage.plan(*dear(3))
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    assert DispatchDue() not in stage.sweep().events
    assert stage.rows("select paused from batches") == [("model_refused",)]
    (wait,) = stage.rows("select extract(epoch from trial_at - now()) from model_circuits")
    assert 25 <= wait[0] <= 60


def test_a_trial_that_is_refused_leaves_the_batch_paused_and_one_that_is_answered_resumes_it(stage: Stage) -> None:
    stage.plan(*dear(8))
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    stage.change("update model_circuits set trial_at = now()")
    assert DispatchDue() in stage.sweep().events
    stage.pump()
    assert stage.upstreams.called("strong") == 1
    assert stage.rows("select paused from batches") == [("model_refused",)]
    assert stage.rows("select trials from model_circuits") == [(1,)]
    stage.change("update model_circuits set trial_at = now()")
    stage.sweep()
    stage.script = {}
    stage.pump()
    assert stage.states() == {"succeeded": 8}
    assert stage.rows("select cause, failures, paused from model_circuits, batches") == [(None, 0, None)]


@pytest.mark.parametrize("change", ["name", "base_url", "api_key_env"])
def test_a_changed_configuration_is_tried_at_once(stage: Stage, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.plan(*dear(3))
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    monkeypatch.setenv("ANOTHER_KEY", "k")
    value = {"name": "sandbox-weak", "base_url": "http://127.0.0.1:10/v1", "api_key_env": "ANOTHER_KEY"}[change]
    stage.settings = stage.configured(**{change: value})
    stage.script = {}
    assert DispatchDue() in stage.sweep().events
    stage.pump()
    assert stage.states() == {"succeeded": 3}


def test_an_operator_sees_what_is_refused_and_has_it_tried_at_once(
    stage: Stage, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    stage.plan(*dear(3))
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    (shown,) = json.loads(CliRunner().invoke(main, ["models", "show", "--json"]).stdout)
    assert (shown["model"], shown["cause"], shown["status"]) == ("strong", "refused", 401)
    assert CliRunner().invoke(main, ["models", "reset", "weak"]).stdout == "weak was not held back\n"
    assert CliRunner().invoke(main, ["models", "reset", "strong"]).stdout == "strong is tried again\n"
    assert CliRunner().invoke(main, ["models", "show"]).stdout == "every model may be used\n"
    stage.script = {}
    stage.sweep()
    stage.pump()
    assert stage.states() == {"succeeded": 3}


def test_no_key_is_kept_with_a_circuit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "very-private")
    stage.settings = stage.configured(api_key_env="UPSTREAM_KEY")
    stage.plan(*dear(1))
    said = {"error": {"message": "no such key: very-private"}}
    stage.script = {"refusing": {"strong": (401, said)}}
    stage.pump()
    assert "very-private" not in str(stage.rows("select * from model_circuits"))


def test_a_line_that_alone_is_refused_fails_and_stops_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some upstreams answer 403 to what a prompt says."""
    stage.plan(*dear(60))
    stage.script = {"flagged": "dear 59"}  # the first to be sent
    with trials_at_once(monkeypatch):
        stage.pump()
    assert stage.states() == {"failed": 1, "succeeded": 59}
    assert stage.rows("select line, status_code, error_code from requests where state = 'failed'") == [
        (60, 403, "moderation")
    ]


def test_a_call_from_before_does_not_prove_a_withdrawn_key_good(stage: Stage) -> None:
    stage.plan(*dear(4))
    stage.script = {"refusing": {"strong": (401, WITHDRAWN)}}
    stage.pump()
    stage.change("update attempts set started_at = now() - interval '1 hour'")
    with stage.database.transaction() as session:
        (attempt_id,) = stage.rows("select min(id) from attempts")[0]
        late = read_answer(200, {}, json.dumps(ANSWER).encode(), stage.settings.models["strong"])
        call = circuit_breaker.Call("strong", attempt_id, late)
        circuit_breaker.record(session, stage.settings.models, [call], random.Random(0))
    assert stage.rows("select cause::text from model_circuits") == [("refused",)]


def test_an_outage_does_not_use_up_the_attempts_of_all_lines(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.plan(*dear(200), *cheap(10))
    stage.script = {"down": {"strong"}}
    stage.pump()
    assert stage.states() == {"scored": 200, "succeeded": 10}
    assert stage.upstreams.called("strong") <= 64 + 10  # the same, and a few trials
    assert stage.rows("select paused from batches") == [(None,)]
    ((tries,),) = stage.rows("select max(tries) from requests")
    assert tries <= 2  # of 6: whoever was tried least is the next trial
    assert [r.levelno for r in caplog.records if "calls in a row failed" in r.message] == [logging.ERROR]
    stage.script = {}
    stage.change("update model_circuits set trial_at = now()")
    stage.changes = {"claim_s": 60}  # it ends when it has nothing left to do
    stage.settings = stage.configured()
    stage.pump()
    assert stage.states() == {"succeeded": 210}
    assert "model strong answers again" in caplog.text


def test_lines_that_always_fail_end_in_spite_of_the_circuit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.changes = {"max_attempts": 3, "claim_s": 20}
    stage.settings = stage.configured()
    stage.plan(*dear(12))
    stage.script = {"down": {"strong"}}
    with trials_at_once(monkeypatch):
        stage.pump()
    assert stage.states() == {"failed": 12}
    assert stage.rows("select distinct error_code, attempts from requests") == [("connection_error", 3)]


def test_delays_between_trials_are_jittered_and_bounded() -> None:
    rng = random.Random(0)
    for delays in circuit_breaker.TRIAL_DELAYS.values():
        for trials in range(40):
            drawn = [delays.draw(trials, rng) for _ in range(50)]
            assert delays.least_s <= min(drawn) < max(drawn) <= min(delays.most_s, delays.first_s * 2**trials)
