"""What votes say of two models, and when they say something of one only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from routing_service.batches.feedback import Answer, Verdict, Vote, verdict
from tests.support.factories import make_settings

MODELS = make_settings().models
PAIR = ["weak", "strong"]


def answer(model: str, *texts: str) -> Answer:
    return Answer(model, json.dumps({"choices": [{"message": {"content": text}} for text in texts]}))


WEAK = answer("weak", "42")
STRONG = answer("strong", "It is 42.", "Forty-two.")


def said(vote: Vote, *others: Answer, candidates: list[str] = PAIR, of: Answer = WEAK) -> Verdict:
    return verdict(vote, of, others, candidates, MODELS)


@pytest.mark.parametrize(
    ("vote", "score", "outcome"),
    [
        (Vote(rating=1), 5, 1),
        (Vote(rating=-1), 1, 0),
        (Vote(score=1), 1, 0),
        (Vote(score=3), 3, 0.5),
        (Vote(score=4), 4, 0.75),
        (Vote(preferred="42 "), 5, 1),
    ],
)
def test_what_is_said_of_one_answer_compares_only_with_an_answer_that_exists(
    vote: Vote, score: int, outcome: float
) -> None:
    assert said(vote) == Verdict(score, outcome, None)
    assert said(vote, STRONG) == Verdict(score, outcome, "strong")


@pytest.mark.parametrize("strong", ["strong", "sandbox-strong"])
def test_a_model_that_is_named_beats_the_other_one_of_a_pair_whichever_it_is(strong: str) -> None:
    assert said(Vote(preferred=strong)) == Verdict(1, 0, "strong")
    assert said(Vote(preferred="weak")) == Verdict(5, 1, "strong")
    assert said(Vote(preferred=strong), of=STRONG) == Verdict(5, 1, "weak")


def test_of_three_models_only_answers_that_exist_are_compared() -> None:
    three = ["weak", "middle", "strong"]
    assert said(Vote(preferred="strong"), candidates=three).other is None
    assert said(Vote(preferred="weak"), candidates=three).other is None
    assert said(Vote(preferred="strong"), STRONG, candidates=three) == Verdict(1, 0, "strong")
    assert said(Vote(preferred="weak"), STRONG, candidates=three) == Verdict(5, 1, "strong")
    assert said(Vote(preferred="middle"), STRONG, candidates=three).other is None
    assert said(Vote(preferred="strong"), of=answer("pinned", "x")).other is None


def test_a_preferred_text_is_that_of_the_model_that_said_it() -> None:
    assert said(Vote(preferred="\nForty-two."), STRONG) == Verdict(1, 0, "strong")
    assert said(Vote(preferred="Forty-three."), STRONG) == Verdict(1, 0, None)


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"choices": 1}', '{"choices": [{"message": {"content": null}}]}'])
def test_an_answer_of_another_form_says_nothing(body: Any) -> None:
    assert not Answer("weak", body).says("")
