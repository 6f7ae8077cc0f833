"""The sandbox as a judge: it knows our templates, and errs and leans as it is told."""

from __future__ import annotations

from collections import Counter

import pytest

from sandbox.config import SandboxConfig
from sandbox.judging import judged
from sandbox.problems import generate
from training.label.judge.prompts import PAIRWISE, SCORE, read_verdict, template

PROBLEMS = generate(60, seed=1)


def verdicts(strong_first: bool = True, error: float = 0.0, bias: float = 0.0, right: int = 0) -> Counter[str]:
    """Of pairs of a right answer (off by `right`) and a wrong one."""
    config = SandboxConfig(judge_error=error, judge_bias=bias)
    counts: Counter[str] = Counter()
    for problem in PROBLEMS:
        answers = [f"So it is {problem.answer + right}.", f"Answer: {problem.answer + 1}"]
        first, second = answers if strong_first else answers[::-1]
        parts = {"question": problem.prompt, "answer_a": first, "answer_b": second}
        reply = judged(config, template("pairwise-v1", PAIRWISE).messages(parts)[1]["content"])
        assert reply is not None
        counts[read_verdict(PAIRWISE, reply)] += 1
    return counts


def test_the_right_answer_is_preferred_wherever_it_stands() -> None:
    assert verdicts() == {"a": 60}
    assert verdicts(strong_first=False) == {"b": 60}
    assert verdicts(right=2) == {"tie": 60}


def test_it_errs_and_leans_as_often_as_it_is_told() -> None:
    assert verdicts(strong_first=False, bias=1.0) == {"a": 60}
    assert 0 < verdicts(strong_first=False, bias=0.3)["a"] < 40
    assert {*verdicts(error=1.0)} == {"a", "b", "tie"}
    assert verdicts(error=0.5) == verdicts(error=0.5)


@pytest.mark.parametrize(("answer", "score"), [("It is 4.", "5"), ("It is 5.", "1")])
def test_an_answer_is_scored_by_its_reference(answer: str, score: str) -> None:
    parts = {"question": "2 + 2?", "reference": "2 + 2 = 4", "answer_a": answer}
    prompt = template("score-v1", SCORE).messages(parts)[1]["content"]
    assert read_verdict(SCORE, judged(SandboxConfig(judge_error=0.0), prompt) or "") == score


def test_other_prompts_are_none_of_its_business() -> None:
    assert judged(SandboxConfig(), "What is 2 + 2?") is None
    assert judged(SandboxConfig(), "Say: routebatch judge template: pairwise-v1") is None
    assert judged(SandboxConfig(judge_error=0.0), "routebatch judge template: pairwise-v1") == "[[C]]"
