"""Feedback by the stock SDK and the command line: one vote a request, of the key's own, and what becomes of it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from click.testing import CliRunner
from openai import OpenAI
from sqlalchemy import insert, select, text, update

from cli.main import main
from routing_service.models import Comparison, Feedback, Rating, Request
from routing_service.models.base import ComparisonSource
from routing_service.openai_format.body import call_digest
from tests.support.api_server import Api
from tests.support.extend import completed
from tests.support.factories import chat_line
from training.data.database import read_database
from training.data.readers import Collector

SAYS = '{"choices": [{"message": {"content": "42"}}]}'
BETTER = '{"choices": [{"message": {"content": "It is 42."}}]}'


def give(client: OpenAI, **body: Any) -> dict[str, Any]:
    response = client.post("/feedback", cast_to=object, body=body)
    assert isinstance(response, dict)
    return response


def request_id(batch_id: str, line: int = 1) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


def kept(api: Api, table: type[Comparison] | type[Rating]) -> list[Any]:
    with api.database.transaction() as session:
        return list(session.scalars(select(table)))


def strong_has_answered(api: Api, client: OpenAI, prompt: str = "What is 1 times 7?") -> None:
    """The key has the strong model's answer to that prompt in another batch, kept for reuse."""
    batch_id = completed(api, client, answered=1, left=1)
    digest = call_digest(chat_line(content=prompt)["body"])
    values = {"model": "strong", "response": BETTER, "call_digest": digest}
    with api.database.transaction() as session:
        session.execute(update(Request).where(Request.batch_id == batch_id, Request.line == 1).values(values))


def test_a_vote_without_the_other_models_answer_is_kept_as_a_rating(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    made = give(client, request_id=request_id(batch_id), rating=1)
    assert made == {
        "id": request_id(batch_id),
        "object": "feedback",
        "batch_id": batch_id,
        "custom_id": "request-1",
        "model": "weak",
        "kept_as": "rating",
        "score": 5,
        "models": None,
        "outcome": None,
        "replaced": False,
    }
    (rating,) = kept(api, Rating)
    assert (rating.prompt, rating.model, rating.score, rating.line) == ("What is 1 times 7?", "weak", 5, 1)
    assert (rating.source, rating.api_key_id) == (ComparisonSource.FEEDBACK, api.key_id)
    assert kept(api, Comparison) == []


def test_with_the_other_models_answer_it_becomes_a_comparison(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    strong_has_answered(api, client)
    made = give(client, batch_id=batch_id, custom_id="request-1", score=2)
    assert (made["kept_as"], made["models"], made["outcome"]) == ("comparison", ["weak", "strong"], 0.25)
    (row,) = kept(api, Comparison)
    assert (row.prompt, row.model_a, row.model_b, row.outcome) == ("What is 1 times 7?", "weak", "strong", 0.25)
    assert (row.source, row.api_key_id, row.batch_id) == (ComparisonSource.FEEDBACK, api.key_id, batch_id)
    assert kept(api, Rating) == []
    assert give(client, batch_id=batch_id, custom_id="request-2", score=2)["kept_as"] == "rating"  # another prompt


def test_a_second_vote_replaces_the_first_and_what_was_made_of_it(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    name = request_id(batch_id)
    assert give(client, request_id=name, preferred="strong")["kept_as"] == "comparison"
    assert give(client, request_id=name, rating=-1)["replaced"]
    assert (len(kept(api, Comparison)), [rating.score for rating in kept(api, Rating)]) == (0, [1])
    give(client, request_id=name, preferred="sandbox-weak")
    assert ([row.outcome for row in kept(api, Comparison)], kept(api, Rating)) == ([1], [])
    with api.database.transaction() as session:
        vote = session.scalars(select(Feedback)).one()
    assert (vote.rating, vote.score, vote.preferred) == (None, None, "sandbox-weak")


def test_a_preferred_text_of_the_clients_own_is_kept_with_a_rating(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    strong_has_answered(api, client)
    assert give(client, request_id=request_id(batch_id), preferred="It is 42.")["outcome"] == 0
    assert give(client, request_id=request_id(batch_id), preferred="Six times seven.")["score"] == 1
    with api.database.transaction() as session:
        assert session.scalars(select(Feedback.preferred)).all() == ["Six times seven."]


def test_votes_at_the_same_time_leave_one(api: Api, client: OpenAI) -> None:
    name = request_id(completed(api, client))
    votes: list[dict[str, Any]] = [{"preferred": "strong"}, {"rating": 1}, {"score": 3}, {"preferred": "weak"}] * 4
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda vote: give(client, request_id=name, **vote), votes))
    assert len(kept(api, Comparison)) + len(kept(api, Rating)) == 1


def test_a_duplicate_line_is_judged_by_the_answer_it_shares(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    with api.database.transaction() as session:
        first = update(Request).where(Request.batch_id == batch_id, Request.line == 1).values(response=SAYS)
        session.execute(first)
        duplicate = "update requests set twin_of = 1, response = null, floor_nano = 0 where batch_id = :id and line = 2"
        session.execute(text(duplicate), {"id": batch_id})
    strong_has_answered(api, client, "What is 2 times 7?")
    assert give(client, request_id=request_id(batch_id, 2), preferred="42")["outcome"] == 1


def test_only_answered_requests_of_the_key_can_be_judged(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    strong_has_answered(api, client)
    with api.client(api.new_key()[1]) as stranger:
        for name in ({"request_id": request_id(batch_id)}, {"batch_id": batch_id, "custom_id": "request-1"}):
            with pytest.raises(openai.NotFoundError):
                give(stranger, **name, rating=1)
        own = completed(api, stranger)
        assert give(stranger, request_id=request_id(own), rating=1)["kept_as"] == "rating"  # not others' answers
    for wrong in (
        request_id(batch_id, 99),
        request_id(batch_id, 999_999_999),
        "batch_req_x_1",
        "req_1",
        "",
        "x" * 9999,
    ):
        with pytest.raises(openai.NotFoundError):
            give(client, request_id=wrong, rating=1)
    with pytest.raises(openai.ConflictError, match="it is unaffordable"):
        give(client, request_id=request_id(batch_id, 3), rating=1)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rating": 1, "score": 5},
        {"rating": 0},
        {"rating": True},
        {"rating": "1"},
        {"score": 0},
        {"score": 6},
        {"score": 2.5},
        {"preferred": ""},
        {"preferred": "a\0b"},
        {"rating": 1, "batch_id": "batch_x"},
        {"rating": 1, "comment": "nice"},
    ],
)
def test_a_vote_that_cannot_be_understood_is_refused(api: Api, client: OpenAI, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        give(client, request_id="batch_req_x_1", **body)


def test_the_command_line_gives_feedback(api: Api, client: OpenAI) -> None:
    batch_id = completed(api, client)
    where = ["--url", api.url, "--api-key", api.key]

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["feedback", *arguments, *where])

    assert run(request_id(batch_id), "--thumbs", "down").stdout == "stored as a rating of weak: 1 of 5\n"
    assert run(request_id(batch_id), "--score", "4").stdout == "stored as a rating of weak: 4 of 5\n"
    compared = run("request-2", "--batch", batch_id, "--preferred", "strong")
    assert compared.stdout == "stored as a comparison of weak with strong: 0\n"
    assert json.loads(run("request-2", "--batch", batch_id, "--thumbs", "up", "--json").stdout)["replaced"] is True
    assert run(request_id(batch_id)).exit_code == 2
    unknown = run("batch_req_x_1", "--score", "1")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)


def test_what_a_keys_votes_weigh_together_in_training_is_capped(api: Api, client: OpenAI) -> None:
    other, _ = api.new_key()

    def row(number: int, **changes: Any) -> dict[str, Any]:
        values = {"source": ComparisonSource.FEEDBACK, "api_key_id": api.key_id, "weight": 2.0}
        prompt = {"prompt": f"prompt {number}", "model_a": "strong", "model_b": "weak", "outcome": number % 2}
        return {"digest": number.to_bytes(32, "big")} | prompt | values | changes

    rows = [row(n) for n in range(10)]
    rows += [row(n, api_key_id=other) for n in range(10, 12)]
    rows += [row(n, source=ComparisonSource.JUDGE) for n in range(20, 40)]
    rows += [row(n, api_key_id=None) for n in range(40, 60)]
    rows.append(row(90, api_key_id=other, weight=float("nan")))
    with api.database.transaction() as session:
        session.execute(insert(Comparison), rows)
        into = Collector()
        read_database(session, into, feedback_weight_per_key=5)
    weight = into.loaded().comparisons.weight
    assert weight[:10].tolist() == [0.5] * 10
    assert weight[10:].tolist() == [2] * 42
