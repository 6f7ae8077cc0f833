"""Graders: what of an answer counts, and that only the operator's configuration names code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from routing_service.errors import ConfigurationError
from routing_service.settings import GraderSettings
from training.data.labels import DataError
from training.label.graders import grader


def grade(name: str, answer: str, gold: str, field: str | None = None, **own: str) -> float:
    return grader(name, {name: GraderSettings(**own)} if own else {}, field)(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("Paris", "paris", True),
        ('  "Paris".\n', "Paris", True),
        ("**New   York**", "new york", True),
        ("ﬁne", "fine", True),
        ("It is Paris", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_exact_is_the_same_text_but_for_case_and_what_stands_around(answer: str, gold: str, right: bool) -> None:
    assert grade("exact", answer, gold) == right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("First 3, then 4.\nSo 12 in all.", "12", True),
        ("It costs $1,234.50.", "1234.5", True),
        ("#### 18\nI counted 3 times.", "#### 18", True),
        ("That is 25%", "25", True),
        (r"so \boxed{\$42}", "42", True),
        ("10-5=5", "5", True),
        ("it falls to -7 degrees", "-7", True),
        ("it falls to −7", "-7", True),
        ("it falls to -7", "7", False),
        ("1, 2, 3", "3", True),
        ("in 2,024 and 1,2", "2", True),
        ("0.1 + 0.2 = .3", "0.30", True),
        ("1e3", "1000", True),
        ("0.5", "5", False),
        ("none", "5", False),
        ("5", "none", False),
        ("####", "5", False),
        ("9" * 100_000, "5", False),
    ],
)
def test_numeric_is_the_last_number_or_the_one_behind_the_mark(answer: str, gold: str, right: bool) -> None:
    assert grade("numeric", answer, gold) == right


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("The answer is (B).", "B"),
        ("The correct answer is: **B**", "B"),
        ("A is wrong. The answer is C, since D is no prime.", "C"),
        ("Answer: B\nFor the reasons above.", "B"),
        ("B) because A would be too small", "B"),
        (r"Hence \boxed{\text{D}}", "D"),
        ("I think option C fits best.", "C"),
        ("A longer text that ends with (D)", "D"),
        ("A cat sat on the mat.", None),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_multiple_choice_finds_the_letter_that_is_chosen(answer: str, chosen: str | None) -> None:
    for letter in "ABCD":
        assert grade("multiple_choice", answer, letter) == (letter == chosen)
        assert grade("multiple_choice", answer, f"{letter}. a text") == (letter == chosen)


@pytest.mark.parametrize(
    ("answer", "field", "gold", "right"),
    [
        ('{"total": {"amount": 12.50}}', "total.amount", "12.5", True),
        ('Here it is:\n```json\n{"items": [{"name": "Pear"}]}\n```\nDone.', "items.0.name", "pear", True),
        ('{"ok": true}', "ok", "True", True),
        ('{"tags": ["a", "b"]}', "tags", '["a", "b"]', True),
        ('{"tags": ["b", "a"]}', "tags", '["a", "b"]', False),
        ('{"total": 12}', "sum", "12", False),
        ('{"items": []}', "items.0", "x", False),
        ("no JSON", "a", "x", False),
        ("{" * 50_000, "a", "x", False),
        ("[" * 50_000, "0", "x", False),
    ],
)
def test_json_field_reads_a_path_of_the_first_object(answer: str, field: str, gold: str, right: bool) -> None:
    assert grade("json_field", answer, gold, field) == right
    assert grade("mine", answer, gold, json_field=field) == right


def test_a_regex_of_the_operator_takes_its_last_match() -> None:
    assert grade("mine", "label: cat, label: dog", "Dog", regex=r"label: (\w+)") == 1
    assert grade("mine", "code 007", "7", regex=r"\d+") == 1
    assert grade("mine", "nothing", "7", regex=r"\d+") == 0


def test_a_function_of_the_operator_may_say_anything_within_0_and_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "half = lambda answer, gold: 0.5\nwrong = lambda answer, gold: float('nan')\nnumber = 3\n"
    (tmp_path / "graders_of_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert grade("mine", "a", "b", entry_point="graders_of_a_test:half") == 0.5
    with pytest.raises(DataError, match="not within 0 and 1"):
        grade("mine", "a", "b", entry_point="graders_of_a_test:wrong")
    for entry_point in ("graders_of_a_test:missing", "graders_of_a_test:number", "no_such_module_of_a_test:f"):
        with pytest.raises(ConfigurationError, match=r"learning\.graders\.mine\.entry_point"):
            grade("mine", "a", "b", entry_point=entry_point)
    sys.modules.pop("graders_of_a_test")


@pytest.mark.parametrize(
    "own", [{}, {"regex": "("}, {"regex": "a", "json_field": "a"}, {"entry_point": "os.system"}, {"regex": ""}]
)
def test_a_grader_that_cannot_be_is_refused_with_the_configuration(own: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        GraderSettings(**own)


def test_unknown_names_and_paths_out_of_place_are_refused() -> None:
    for name, field in (("os:system", None), ("json_field", None), ("exact", "a")):
        with pytest.raises(DataError):
            grader(name, {}, field)


def test_an_answer_cannot_make_a_grader_search_for_long() -> None:
    assert grade("multiple_choice", "answer" + "*" * 200_000, "B") == 0.0
    assert grade("multiple_choice", "The answer is **B**", "B") == 1.0


@pytest.mark.parametrize("answer", ["9" * 1_000_010, "0." + "0" * 1_000_010 + "1", "-" + "9" * 1_000_010])
def test_an_endless_number_is_no_number(answer: str) -> None:
    assert grade("numeric", answer, "3") == 0.0
