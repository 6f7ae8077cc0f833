"""Graders: how good an answer is, in [0, 1], by the gold answer to its prompt. Pure, but for the operator's own code.

- exact: the same text, but for case, white space, and quotes, marks and stops around it.
- numeric: the number behind the last `####` of the answer, else its last number, is the gold answer's. Currency signs,
  thousands' commas, `%` and LaTeX around it do not count.
- multiple_choice: the answer chooses the gold answer's letter.
- json_field: the answer is, or holds, a JSON object whose field at a path is the gold answer.

A regex or a Python function is a grader only where the operator's configuration says so (`[learning.graders.NAME]`):
what is sent by clients names neither. An answer that a grader can make nothing of is worth 0.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from routing_service.errors import ConfigurationError
from routing_service.settings import GraderSettings
from training.data.labels import DataError

Grader = Callable[[str, str], float]  # answer, gold -> quality

NUMERIC_TOLERANCE = Decimal("1e-9")  # relative
MOST_DIGITS = 10_000  # before the point, or noughts behind it: Decimal's arithmetic ends at a million
_AROUND = " \t\n\r\"'`*_.,;:!()[]{}$“”‘’"
_MARKUP = re.compile(r"\\[A-Za-z]*|[{}*_]")
_SIGNS = re.compile(r"[$€£%]|(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"(?<![\w.)])[-−]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\d))?")
# An answer is anybody's: where a repetition could be shared out in many ways, it gives nothing back (`*+`).
_SAID = re.compile(
    r"\b(?i:answer|option|choice)s?\b(?:\s*(?i:is|are|be|:|=|\*))*+\s*(?:(?i:option|choice)\s*)?[\"'`*$\\{]*+(?:boxed\{)?"
    r"(?:\(([A-Ja-j])\)|([A-J]))(?![\w'’])"
)
_BOXED = re.compile(r"boxed\{(?:\\text\{)?\s*\(?([A-Ja-j])\)?\s*\}")
_WHOLE = re.compile(r"\W*([A-Ja-j])\W*")
_LEADING = re.compile(r"\W*([A-J])(?:[).:\]]|\s*\n)")
_STANDING = re.compile(r"\(([A-J])\)|(?<![\w'’])([B-J])(?![\w'’])")

__all__ = ["GRADERS", "Grader", "grader", "grader_names"]


def exact(answer: str, gold: str) -> float:
    return float(_plain(answer) == _plain(gold))


def numeric(answer: str, gold: str) -> float:
    given, wanted = _number(answer), _number(gold)
    return float(given is not None and wanted is not None and _close(given, wanted))


def multiple_choice(answer: str, gold: str) -> float:
    given, wanted = _letter(answer), _letter(gold)
    return float(given is not None and given == wanted)


def json_field(path: str, answer: str, gold: str) -> float:
    """`path`: names and places (of lists, from 0) with dots between."""
    value = _json_object(answer)
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return 0.0
    return float(_means(value, gold))


def by_regex(pattern: re.Pattern[str], answer: str, gold: str) -> float:
    """The pattern's last match (its first group, if it has one) is the gold answer: the same number, or exactly it."""
    last = None
    for last in pattern.finditer(answer):  # noqa: B007
        pass
    if last is None:
        return 0.0
    return float(_means(last[1] if pattern.groups else last[0], gold))


GRADERS: Mapping[str, Grader] = {"exact": exact, "numeric": numeric, "multiple_choice": multiple_choice}
FIELD = "json_field"


def grader_names(own: Mapping[str, GraderSettings]) -> list[str]:
    """All names that `grader` knows: the built-in ones, and the operator's."""
    return [*GRADERS, FIELD, *own]


def grader(name: str, own: Mapping[str, GraderSettings], field: str | None = None) -> Grader:
    """The grader of that name; `own` are the operator's. `field`: the path that `json_field` reads.

    DataError for a name that is none, or a path too few or too many; ConfigurationError where the operator's function
    cannot be had.
    """
    if (field is not None) != (name == FIELD):
        raise DataError("json_field needs the path of a field, and no other grader takes one")
    if field is not None:
        return partial(json_field, field)
    if name in GRADERS:
        return GRADERS[name]
    if name not in own:
        raise DataError(f"there is no grader {name!r}. Known: {', '.join(grader_names(own))}")
    told = own[name]
    if told.regex is not None:
        return partial(by_regex, re.compile(told.regex))
    if told.json_field is not None:
        return partial(json_field, told.json_field)
    return _of_entry_point(name, told.entry_point or "")


def _of_entry_point(name: str, entry_point: str) -> Grader:
    module, _, attribute = entry_point.partition(":")
    where = f"learning.graders.{name}.entry_point"
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    if not callable(function):
        raise ConfigurationError(f"{where}: {entry_point} cannot be called")

    def grade(answer: str, gold: str) -> float:
        quality = float(function(answer, gold))
        if not (math.isfinite(quality) and 0 <= quality <= 1):
            raise DataError(f"{where}: {entry_point} returned {quality:g}, which is not within 0 and 1")
        return quality

    return grade


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)


def _number(text: str) -> Decimal | None:
    marked = text.rpartition("####")
    numbers = _NUMBER.findall(_bare(marked[2]))
    if not numbers:
        return None
    number = Decimal((numbers[0] if marked[1] else numbers[-1]).replace("−", "-"))
    return number if abs(number.adjusted()) <= MOST_DIGITS else None


def _bare(text: str) -> str:
    return _SIGNS.sub("", _MARKUP.sub(" ", text))


def _close(a: Decimal, b: Decimal) -> bool:
    return abs(a - b) <= NUMERIC_TOLERANCE * max(abs(a), abs(b))


def _letter(text: str) -> str | None:
    """The letter that a text chooses, if it says so in one of the usual ways; what is said last counts."""
    if (whole := _WHOLE.fullmatch(text)) is not None:
        return whole[1].upper()
    for pattern in (_BOXED, _SAID):
        if said := pattern.findall(text):
            letters = said[-1] if isinstance(said[-1], tuple) else (said[-1],)
            return "".join(letters).upper()
    if (leading := _LEADING.match(text)) is not None:
        return leading[1]
    standing = _STANDING.findall(text)
    return "".join(standing[-1]) if standing else None


def _json_object(text: str) -> Any:
    """The text as JSON, else the first JSON object or list in it (in a fence, after a sentence); None for none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    decoder, start = json.JSONDecoder(), re.search(r"[{\[]", text)
    try:
        return None if start is None else decoder.raw_decode(text, start.start())[0]
    except (ValueError, RecursionError):
        return None


def _means(given: Any, gold: str) -> bool:
    """Whether a JSON value, or a piece of text, is what the gold answer says."""
    if isinstance(given, dict | list):
        wanted = _json_object(gold)
        return wanted is not None and bool(given == wanted)
    if isinstance(given, bool) or given is None:
        return _plain(json.dumps(given)) == _plain(gold)
    text = str(given)
    if _plain(text) == _plain(gold):
        return True
    both_numbers = all(_NUMBER.fullmatch(_bare(value).strip()) for value in (text, gold))
    return both_numbers and numeric(text, gold) == 1.0
