"""The word problems: what is generated can be solved by reading it, and the answers are right."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.answers import MOST_WORDS, SyntheticAnswers
from sandbox.config import SandboxConfig
from sandbox.problems import generate, solve
from sandbox.templates import TEMPLATES
from sandbox.wire import count_tokens, cut_to_cap

PROBLEMS = generate(3000, seed=11)
BY_HAND = {
    "Ada has 12 coins and buys 30 more. How many coins does Ada have now?": (42, 1),
    "Hugo shares 60 plums equally among 5 friends. How many plums does each friend get?": (12, 1),
    # 9 x 12 = 108, 108 - 18 = 90, 90 / 6 = 15
    "A bakery bakes 9 trays of 12 rolls. It sells 18 rolls in the morning and packs the rest into bags of 6. "
    "How many bags does it fill?": (15, 3),
    # 50 - 10 = 40, + 5 = 45, - 15 = 30, + 2 = 32
    "A bus leaves with 50 passengers. At the first stop 10 get off and 5 get on, and at the second stop 15 get off "
    "and 2 get on. How many passengers are on the bus then?": (32, 4),
    # (12 - 2) x 30 = 300, + 100 = 400, 4 x 10 = 40, 400 - 40 = 360
    "A tank holds 100 litres of water. A pump adds 12 litres a minute while a leak loses 2 litres a minute, and this "
    "goes on for 30 minutes. Then Rosa fills 4 cans of 10 litres each from the tank. How many litres are left in the "
    "tank?": (360, 5),
    # 10 x 20 = 200 seats, 180 visitors, 150 adults x 10 = 1500, 30 x 5 = 150
    "A cinema has 10 rows of 20 seats. At the evening show 20 seats stay empty. 30 of the visitors are children, who "
    "pay 5 dollars each, and all the others pay 10 dollars each. How many dollars does the cinema take?": (1650, 6),
}


@pytest.mark.parametrize(("prompt", "solution"), BY_HAND.items(), ids=range(len(BY_HAND)))
def test_the_solver_agrees_with_pencil_and_paper(prompt: str, solution: tuple[int, int]) -> None:
    assert solve(prompt) == solution


@settings(deadline=None)
@given(seed=st.integers())
def test_every_generated_problem_is_solved_from_its_text(seed: int) -> None:
    for problem in generate(20, seed):
        assert solve(f"\n {problem.prompt} ") == (problem.answer, problem.steps)
        assert problem.answer > 0


@settings(deadline=None)
@given(text=st.text())
def test_a_strangers_prompt_is_not_solved(text: str) -> None:
    assert solve(text) is None


def test_numbers_that_do_not_work_out_are_not_solved() -> None:
    question = "Hugo shares {} plums equally among {} friends. How many plums does each friend get?"
    assert solve(question.format(7, 2)) is None
    assert solve(question.format(7, 0)) is None
    assert solve(question.format("9" * 5000, 3)) is None


def test_a_smaller_count_gives_the_first_of_the_same_problems() -> None:
    assert generate(50, seed=11) == PROBLEMS[:50]
    assert generate(50, seed=12) != PROBLEMS[:50]


def test_all_templates_and_one_to_six_steps_occur_and_no_prompt_twice() -> None:
    assert {problem.steps for problem in PROBLEMS} == {1, 2, 3, 4, 5, 6}
    assert len(TEMPLATES) >= 12
    assert len({problem.prompt for problem in PROBLEMS}) == len(PROBLEMS)


def error_rates(model: str, seed: int = 0) -> list[float]:
    """Share of wrong answers by number of steps, from one to six."""
    answers = SyntheticAnswers(SandboxConfig(seed=seed))
    wrong = {steps: [0, 0] for steps in range(1, 7)}
    for problem in PROBLEMS:
        text = answers.answer(model, problem.prompt, 0)
        wrong[problem.steps][0] += text.rsplit("Answer: ", 1)[1] != str(problem.answer)
        wrong[problem.steps][1] += 1
    return [bad / total for bad, total in wrong.values()]


def test_the_weak_model_errs_more_the_more_steps_there_are_and_the_strong_seldom() -> None:
    weak, strong = error_rates("small-weak"), error_rates("some-strong")
    assert all(easier < harder for easier, harder in pairwise(weak))
    assert weak[0] < 0.1
    assert weak[-1] > 0.6
    assert max(strong) < 0.06


def test_answers_depend_on_seed_model_and_prompt_alone() -> None:
    hard = [problem.prompt for problem in PROBLEMS if problem.steps == 6][:30]

    def answered(seed: int, model: str) -> list[str]:
        answers = SyntheticAnswers(SandboxConfig(seed=seed))
        return [answers.answer(model, prompt, 0) for prompt in hard]

    assert answered(1, "weak") == answered(1, "weak") == answered(1, "any other name")
    assert answered(1, "weak") != answered(2, "weak")
    assert answered(1, "weak") != answered(1, "strong")


@settings(deadline=None)
@given(prompt=st.text())
def test_other_prompts_get_filler_of_twenty_to_a_hundred_and_twenty_tokens(prompt: str) -> None:
    answers = SyntheticAnswers(SandboxConfig())
    text = answers.answer("weak", prompt, 0)
    assert 20 <= count_tokens(text.encode()) <= 120
    assert len(text.split()) <= MOST_WORDS
    assert text == answers.answer("weak", prompt, 0)


@settings(deadline=None)
@given(text=st.text(), cap=st.integers(1, 30))
def test_a_cut_answer_holds_no_more_than_the_cap_and_stays_a_prefix(text: str, cap: int) -> None:
    kept, tokens, was_cut = cut_to_cap(text, cap)
    assert tokens <= cap
    assert text.startswith(kept)
    assert was_cut == (kept != text)
    assert tokens <= max(1, len(text.encode()))
