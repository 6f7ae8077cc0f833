"""Duplicate prompts of a batch: which lines are duplicates, what is planned for them, and what their client gets.

Only one of them is asked; the others end as it ends, whatever happens to it.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.dispatch import finish as finishing
from routing_service.dispatch import lease
from routing_service.dispatch.finish import finish
from routing_service.dispatch.sweep import sweep
from routing_service.events import FinishDue
from routing_service.ingest.ingest import ingest
from routing_service.models import BatchState, RequestState
from routing_service.money.pricing import NANO, price_book
from routing_service.money.reports import costs_by_batch
from routing_service.openai_format.output import render
from routing_service.plans.plan import plan
from routing_service.routers.registry import Routers
from routing_service.scoring.score import score
from tests.support.api_server import Api, running_api
from tests.support.client import create, routing, upload
from tests.support.examples import examples
from tests.support.extend import ask, submit
from tests.support.factories import (
    DETERMINISTIC,
    STRONG,
    WEAK,
    chat_file,
    chat_line,
    ingested_batch,
    line,
    lines,
    make_settings,
    new_batch,
    planned_batch,
    requests_of,
)
from tests.support.fakes import FakePublisher
from tests.support.money_flow import KINDS, SETTINGS, SLOTS, World
from tests.support.reading import batch_of, upgraded
from tests.support.upstreams.sandbox_server import run_sandbox
from tests.support.working import work


def duplicates_of(database: Database, content: list[dict[str, Any]], dedupe: str = "deterministic") -> list[int | None]:
    """Of each line, the line that it is a duplicate of."""
    batch_id = ingested_batch(database, content, make_settings(), options={"dedupe": dedupe})
    requests = requests_of(database, batch_id)
    assert batch_of(database, batch_id).duplicates == sum(r.twin_of is not None for r in requests)
    for request in requests:
        assert request.answers == 1 + sum(other.twin_of == request.line for other in requests)
    return [request.twin_of for request in requests]


def test_later_lines_of_the_same_body_are_duplicates_of_the_first(database: Database) -> None:
    assert duplicates_of(database, lines("a", "b", "a", "a", "b", "c")) == [None, None, 1, 1, 2, None]


def test_the_highest_priority_among_duplicates_counts(database: Database) -> None:
    content = [line(1, "a"), line(2, "b"), line(3, "a", routing={"priority": 8})]
    batch_id = ingested_batch(database, content, make_settings(), options=DETERMINISTIC)
    assert [request.priority for request in requests_of(database, batch_id)] == [8, 5, 8]
    assert batch_of(database, batch_id).line_priorities == [8, 5]


def test_what_is_sent_and_its_terms_decide_what_is_a_duplicate(database: Database) -> None:
    same = [
        line(1, "a"),
        line(2, "a", body={"n": None, "stream": False}),
        line(3, "a", 0.0),
        chat_line(
            "c-4", body={"temperature": 0, "messages": [{"content": "a", "role": "user"}], "model": "routebatch-auto"}
        ),
    ]
    other = [
        line(5, "a", body={"max_tokens": 5}),
        line(6, "a", body={"user": "u"}),
        line(7, "a", routing={"model": "strong"}),
        line(8, "a", routing={"max_cost_usd": 1}),
        line(9, "a", routing={"model": "strong", "max_cost_usd": 1}),
        line(10, "a ", 0),
    ]
    firsts = duplicates_of(database, same + other)
    assert firsts[:2] == [None, 1]
    assert firsts[3] == 1
    assert firsts[4:] == [None] * 6


@pytest.mark.parametrize(
    ("dedupe", "expected"),
    [
        ("off", [None] * 6),
        ("deterministic", [None, 1, None, None, None, None]),
        ("batch", [None, 1, None, 3, None, 5]),
    ],
)
def test_the_option_says_which_duplicates_count(database: Database, dedupe: str, expected: list[int | None]) -> None:
    content = [line(n, "a", temperature) for n, temperature in enumerate([0, 0, None, None, 0.7, 0.7], start=1)]
    assert duplicates_of(database, content, dedupe) == expected


def test_the_floor_the_least_budget_and_the_expected_cost_count_each_asked_prompt_once(database: Database) -> None:
    once = planned_batch(database, lines("a", "b"), SETTINGS, options=DETERMINISTIC)
    often = planned_batch(database, lines("a", "b", *"ab" * 20), SETTINGS, options=DETERMINISTIC)
    single, repeated = batch_of(database, once), batch_of(database, often)
    assert (repeated.total, repeated.duplicates) == (42, 40)
    assert repeated.floor_nano == single.floor_nano
    assert repeated.expected_cost_nano == single.expected_cost_nano
    messages = []
    for content in (lines("a", "b"), lines("a", "b", *"ab" * 20)):
        refused = new_batch(database, content, budget_nano=1, options=DETERMINISTIC)
        ingest(database, SETTINGS, price_book(SETTINGS), refused)
        errors = batch_of(database, refused).errors
        assert errors
        messages.append(errors[0]["message"])
    assert messages[0] == messages[1]


def test_a_gain_counts_for_every_answer_that_it_improves(database: Database) -> None:
    """Of prompts of equal costs, the one with the most duplicates is upgraded first, and its gain counts as often."""
    prompts = [f"prompt {n:03}" for n in range(40)]
    duplicates_ = [prompts[3]] * 30
    plain = planned_batch(database, lines(*prompts), SETTINGS, options=DETERMINISTIC, budget_nano=NANO)
    batch_id = planned_batch(database, lines(*prompts, *duplicates_), SETTINGS, options=DETERMINISTIC, budget_nano=NANO)
    requests = requests_of(database, batch_id)
    quality, ratio = requests[3].quality, requests[3].ratio
    assert quality
    assert ratio is not None
    gain, before = 2 * (quality[1] - quality[0]), requests_of(database, plain)[3].ratio
    assert gain > 0
    assert ratio == pytest.approx(31 * (before or 0))
    once, often = batch_of(database, plain), batch_of(database, batch_id)
    assert once.expected_gain is not None
    assert often.expected_gain == pytest.approx(once.expected_gain + 30 * gain, rel=1e-5)
    assert 4 in {request.line for request in upgraded(database, often)}


def run(api: Api, batch_id: str) -> None:
    """All that the workers do of a batch; every call is answered."""
    assert ingest(api.database, api.settings, price_book(api.settings), batch_id)
    score(api.database, api.settings, price_book(api.settings), Routers(api.settings), batch_id, 1)
    assert plan(api.database, api.settings, price_book(api.settings), batch_id)
    assert World(api.database, batch_id, [lease.open_lease(api.database, 60)]).drain() == BatchState.COMPLETED


def test_a_client_gets_an_answer_for_every_line_and_sees_what_was_saved(database: Database) -> None:
    settings = make_settings(routing={"candidates": ["weak", "strong"], "router": "random"})
    with running_api(settings, database) as api, api.client() as client:
        batch_id = create(client, upload(client, chat_file(lines("a", "b", "a", "a")))).id
        run(api, batch_id)
        batch = client.batches.retrieve(batch_id)
        assert batch.output_file_id
        content = client.files.content(batch.output_file_id).content
        assert client.files.retrieve(batch.output_file_id).bytes == len(content)
    answers = [json.loads(row) for row in content.splitlines()]
    assert batch.request_counts
    assert (batch.request_counts.completed, batch.request_counts.total) == (4, 4)
    assert [answer["custom_id"] for answer in answers] == ["c-1", "c-2", "c-3", "c-4"]
    assert len({answer["id"] for answer in answers}) == 4
    first, _, duplicate, _ = (answer["response"] for answer in answers)
    assert duplicate["body"] == first["body"]
    assert duplicate["routing"] == first["routing"] | {"reason": "duplicate", "cost_usd": "0.00"}
    shown = routing(batch)
    assert shown["duplicates"]["count"] == 2
    assert float(shown["duplicates"]["saved_usd"]) == 2 * float(first["routing"]["cost_usd"]) > 0
    assert shown["reasons"] == {"plan": 2, "duplicate": 2}
    assert sum(shown["models"].values()) == 4
    with database.transaction() as session:
        row = costs_by_batch(session, batch_id=batch_id).rows[0]
    assert (row["duplicates"], f"{row['duplicates_saved_usd'].normalize():f}") == (
        2,
        shown["duplicates"]["saved_usd"],
    )


def test_a_value_that_is_none_of_the_option_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, extra_body={"routing": {"dedupe": "always"}})
    assert caught.value.param == "routing.dedupe"


def test_a_continuation_asks_an_unanswered_prompt_once_and_answers_all_its_lines(database: Database) -> None:
    prompts = [f"prompt {n % 12} of a few words more" for n in range(48)]
    with run_sandbox(latency_ms=2) as sandbox:
        weak = WEAK | {"base_url": sandbox.base_url, "expected_output_tokens": 1}
        models = {"strong": STRONG | {"base_url": sandbox.base_url}, "weak": weak}
        settings = make_settings(models=models, dispatch={"idle_s": 0.3, "settle_interval_ms": 20})
        with running_api(settings, database) as api, api.client() as client:
            first = submit(client, lines(*prompts), budget_usd="0.0004")
            work(database, settings, api.publisher)
            second = ask(client, first, "top_up", "1").id
            work(database, settings, api.publisher)
            answers = [
                client.files.content(client.batches.retrieve(b).output_file_id or "").text for b in (first, second)
            ]
        assert sandbox.stats()["seen"]["max_repeats"] == 1
        assert sum(model["answered"] for model in sandbox.stats()["models"].values()) == 12
    assert (batch_of(database, first).failed % 4, batch_of(database, second).duplicates % 3) == (0, 0)
    assert batch_of(database, first).failed == batch_of(database, second).succeeded > 0
    custom_ids = sorted(json.loads(row)["custom_id"] for text in answers for row in text.splitlines())
    assert custom_ids == sorted(f"c-{n}" for n in range(1, 49))


def world(database: Database, batch_id: str) -> World:
    return World(database, batch_id, [lease.open_lease(database, 60) for _ in range(2)])


class _DyingDatabase:
    """A database whose process dies after so many transactions."""

    def __init__(self, database: Database, transactions: int) -> None:
        self._database, self._left = database, transactions

    def transaction(self) -> AbstractContextManager[Session]:
        self._left -= 1
        if self._left < 0:
            raise SystemExit("killed")
        return self._database.transaction()


@pytest.mark.parametrize("transactions", range(6))
def test_a_process_killed_between_an_answer_and_its_duplicates_loses_and_doubles_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    monkeypatch.setattr(finishing, "LINES_AT_ONCE", 3)
    batch_id = planned_batch(database, lines("a", *"ab" * 5), SETTINGS, options=DETERMINISTIC)
    moving = world(database, batch_id)
    moving.claim(0, {"weak": 9, "strong": 9})
    moving.settle(["usage", "usage"])
    with pytest.raises(SystemExit):
        finish(_DyingDatabase(database, transactions), batch_id)  # type: ignore[arg-type]
    publisher = FakePublisher()
    with database.transaction() as session:
        session.execute(text("update batches set announced_at = now() - interval '1 hour'"))
    sweep(database, SETTINGS, publisher)
    assert FinishDue(batch_id) in publisher.events
    assert moving.drain() == "completed"
    batch = batch_of(database, batch_id)
    assert (batch.succeeded, batch.failed, batch.total) == (11, 0, 11)
    first, other = requests_of(database, batch_id)[0], requests_of(database, batch_id)[2]
    assert batch.duplicates_saved_nano == 5 * first.cost_nano + 4 * other.cost_nano > 0


STEPS = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 1), SLOTS),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("end"), st.sampled_from(["cancel", "expire"])),
)


@examples(25)
@given(
    prompts=st.lists(st.sampled_from("abcd"), min_size=2, max_size=12),
    steps=st.lists(STEPS, max_size=10),
    budget=st.sampled_from([0, 50_000, 20_000_000, NANO]),
    stops=st.booleans(),
)
def test_duplicates_end_as_the_line_that_was_asked_ended(
    database: Database, prompts: list[str], steps: list[tuple[object, ...]], budget: int, stops: bool
) -> None:
    options = {"dedupe": "deterministic", "on_budget": "stop" if stops else "wait"}
    batch_id = planned_batch(database, lines(*prompts), SETTINGS, options=options)
    with database.transaction() as session:  # as if others had spent the rest
        session.execute(text("update budgets set limit_nano = :n where batch_id = :id"), {"n": budget, "id": batch_id})
    moving = world(database, batch_id)
    for name, *arguments in steps:
        getattr(moving, str(name))(*arguments)
        moving.check()
    ended = moving.drain()
    for held in moving.pumps:
        lease.close_lease(database, held)
    requests = requests_of(database, batch_id)
    batch = batch_of(database, batch_id)
    assert ended == "paused" or batch.succeeded + batch.failed == batch.total
    saved = 0
    for request in requests:
        if request.twin_of is None:
            continue
        first = requests[request.twin_of - 1]
        assert first.twin_of is None
        assert (request.attempts, request.cost_nano, request.response) == (0, 0, None)
        if ended == "paused":
            assert request.state is RequestState.QUEUED
            continue
        assert (request.state, request.model, request.error_code) == (first.state, first.model, first.error_code)
        assert request.finished_at
        saved += first.cost_nano if first.state is RequestState.SUCCEEDED else 0
    assert batch.duplicates_saved_nano == saved
    with database.transaction() as session:
        asked = text("select count(*) from attempts join requests using (batch_id, line) where twin_of is not null")
        assert session.scalar(asked) == 0


def test_the_duplicates_of_a_refused_line_are_in_the_error_file_with_its_cause(database: Database) -> None:
    batch_id = planned_batch(database, lines("a", "a"), SETTINGS, options=DETERMINISTIC)
    moving = world(database, batch_id)
    moving.claim(0, {"weak": 1, "strong": 1})
    moving.settle(["refused"])
    assert moving.drain() == "completed"
    batch = batch_of(database, batch_id)
    assert (batch.succeeded, batch.failed, batch.output_file_id) == (0, 2, None)
    first, duplicate = (
        json.loads(row)["response"] for row in b"".join(render(database, batch_id, errors=True)).splitlines()
    )
    assert first["status_code"] == 400
    assert duplicate == first | {"routing": first["routing"] | {"reason": "duplicate"}}
