"""The forms of training data, recognised by their columns, and what a row of each says.

Every form says for a prompt which of two answers is preferred: an outcome of 1 (always the first) to 0 (the second):

- outcomes: `prompt, strong_correct, weak_correct`; (1 + strong - weak) / 2. RouteLLM's response tables, whose columns
  are called after the models, are the same with `strong` and `weak` named.
- comparisons, our JSON lines: `prompt, model_a, model_b, outcome`.
- arena, Chatbot Arena's table: `prompt, model_a, model_b, winner_model_a, winner_model_b, winner_tie`.
- battles: `prompt_id, model_a, model_b, preference_b` (0: a preferred, 1: b); the prompts stand in a file of their own.
- alpaca, AlpacaEval's annotations: `instruction, generator_1, generator_2, preference` (1: the first is preferred,
  2: the second, soft between; 0: a tie).
- scored, Anyscale's: `prompt, mixtral_score`, a judge's 1 to 5 for the weak model's answer, kept as the rating. From 4
  on the weak model is good enough (a tie, 0.5); below that the strong model's answer is taken to be preferred (1).
- ratings: `prompt, model, score`, the same of answers whose model is named: those of the weak one count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

Cells = Mapping[str, Any]
Prompts = Mapping[str, str]

SOURCES = frozenset(("arena", "golden", "judge", "feedback"))
GOOD_ENOUGH = 4  # of Anyscale's 1 to 5
LEAST_BATTLE_CHARACTERS = 16  # RouteLLM's: shorter prompts of battles are greetings and tests
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")
WEIGHTS = (1e-30, 1_000_000)  # what every method can be fitted on: one row beyond them would stop the fit of all others
_WORDS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row says: how much the answer of `pair[0]` is preferred over that of `pair[1]`; without a pair, strong's
    over weak's. `rating` is a judge's 1 to 5 for weak's answer, which the model `rated` gave where the row names it.
    """

    prompt: str
    outcome: float
    source: str
    pair: tuple[str, str] | None = None
    weight: float = 1.0
    rating: float | None = None
    rated: str | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """`read` raises ValueError with the reason where a row cannot be used."""

    name: str
    columns: frozenset[str]
    read: Callable[[Cells, Prompts], Reading]
    battle: bool = False
    by_id: bool = False  # its prompts are looked up


def recognise(
    columns: frozenset[str], strong: str | None, weak: str | None, allowed: Collection[str] | None = None
) -> Form | None:
    """The form that a table of these columns has; None for none of them, or none of the `allowed` names."""
    if allowed is not None and "responses" not in allowed:
        strong = weak = None
    if strong is not None and weak is not None and columns >= {"prompt", strong, weak}:
        return _responses(strong, weak)
    known = (form for form in FORMS if allowed is None or form.name in allowed)
    return next((form for form in known if columns >= form.columns), None)


def text(value: Any, name: str) -> str:
    """A cell that must hold text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"`{name}` is empty" if value in ("", None) or isinstance(value, str) else f"`{name}` is no text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"`{name}` holds bytes that are no UTF-8, or half of a surrogate pair") from None
    return value


def number(value: Any, name: str, low: float, high: float) -> float:
    """A cell that must hold a number of [low, high], or true or false."""
    plain = value.strip().lower() if isinstance(value, str) else value
    if plain is None or plain == "":
        raise ValueError(f"`{name}` is missing")
    try:
        value_of_cell = _WORDS[plain] if plain in _WORDS else float(plain)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{name}` is no number: {str(value)[:40]!r}") from None
    if not low <= value_of_cell <= high:  # NaN too
        raise ValueError(f"`{name}` is {value_of_cell:g}, not within {low:g} and {high:g}")
    return value_of_cell


def _outcomes(strong: str, weak: str) -> Callable[[Cells, Prompts], Reading]:
    def read(cells: Cells, prompts: Prompts) -> Reading:
        gain = number(cells.get(strong), strong, 0, 1) - number(cells.get(weak), weak, 0, 1)
        return Reading(text(cells.get("prompt"), "prompt"), (1 + gain) / 2, "golden", weight=_weight(cells))

    return read


def _responses(strong: str, weak: str) -> Form:
    return Form("responses", frozenset(("prompt", strong, weak)), _outcomes(strong, weak))


def comparison(cells: Cells, prompts: Prompts) -> Reading:
    """A row of our own form, which the database has, too. ValueError with the reason where it cannot be used."""
    source = cells.get("source") or "golden"
    if source not in SOURCES:
        raise ValueError(f"`source` is {str(source)[:40]!r}, not one of {', '.join(sorted(SOURCES))}")
    pair = _pair(cells)
    if pair[0] == pair[1]:
        raise ValueError(f"`model_a` and `model_b` are both {pair[0][:80]!r}")
    outcome = number(cells.get("outcome"), "outcome", 0, 1)
    return Reading(text(cells.get("prompt"), "prompt"), outcome, source, pair, _weight(cells))


def _arena(cells: Cells, prompts: Prompts) -> Reading:
    won = [number(cells.get(name), name, 0, 1) for name in WINNERS]
    if sorted(won) != [0, 0, 1]:
        raise ValueError(f"not exactly one of {', '.join(WINNERS)} is 1")
    return Reading(_first_turn(cells.get("prompt")), (1 + won[0] - won[1]) / 2, "arena", _pair(cells))


def _battle(cells: Cells, prompts: Prompts) -> Reading:
    key = text(cells.get("prompt_id"), "prompt_id")
    if key not in prompts:
        raise ValueError(f"no prompt has the id {key[:40]!r}")
    outcome = 1 - number(cells.get("preference_b"), "preference_b", 0, 1)
    return Reading(prompts[key], outcome, "judge", _pair(cells))


def _alpaca(cells: Cells, prompts: Prompts) -> Reading:
    preference = number(cells.get("preference"), "preference", 0, 2)
    if 0 < preference < 1:
        raise ValueError(f"`preference` is {preference:g}, which is neither 0 nor within 1 and 2")
    pair = text(cells.get("generator_1"), "generator_1"), text(cells.get("generator_2"), "generator_2")
    return Reading(text(cells.get("instruction"), "instruction"), 2 - preference if preference else 0.5, "judge", pair)


def rating(cells: Cells, prompts: Prompts) -> Reading:
    """A row of `ratings`, which the database has, too. ValueError with the reason where it cannot be used."""
    source = cells.get("source") or "judge"
    if source not in SOURCES:
        raise ValueError(f"`source` is {str(source)[:40]!r}, not one of {', '.join(sorted(SOURCES))}")
    return replace(_rated(cells, "score"), source=source, rated=text(cells.get("model"), "model"))


def _scored(cells: Cells, prompts: Prompts) -> Reading:
    return _rated(cells, "mixtral_score")


def _rated(cells: Cells, column: str) -> Reading:
    score = number(cells.get(column), column, 1, 5)
    outcome = 0.5 if score >= GOOD_ENOUGH else 1.0
    prompt = text(cells.get("prompt"), "prompt")
    return Reading(prompt, outcome, "judge", weight=_weight(cells), rating=score)


def _first_turn(value: Any) -> str:
    """A battle's prompt. Chatbot Arena writes the turns as a JSON list; what is routed is the first."""
    turns = value
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            turns = json.loads(value)
        except (ValueError, RecursionError):
            return text(value, "prompt")
    if not isinstance(turns, list) or not all(turn is None or isinstance(turn, str) for turn in turns):
        return text(value, "prompt")
    return text(next((turn for turn in turns if turn and turn.strip()), None), "prompt")


def _pair(cells: Cells) -> tuple[str, str]:
    return text(cells.get("model_a"), "model_a"), text(cells.get("model_b"), "model_b")


def _weight(cells: Cells) -> float:
    if cells.get("weight") in (None, ""):
        return 1.0
    return number(cells["weight"], "weight", *WEIGHTS)


# The first one whose columns a table has is its form: those that say more stand first.
FORMS = (
    Form("arena", frozenset(("prompt", "model_a", "model_b", *WINNERS)), _arena, battle=True),
    Form("comparisons", frozenset(("prompt", "model_a", "model_b", "outcome")), comparison),
    Form("battles", frozenset(("prompt_id", "model_a", "model_b", "preference_b")), _battle, battle=True, by_id=True),
    Form("alpaca", frozenset(("instruction", "generator_1", "generator_2", "preference")), _alpaca, battle=True),
    Form(
        "outcomes", frozenset(("prompt", "strong_correct", "weak_correct")), _outcomes("strong_correct", "weak_correct")
    ),
    Form("scored", frozenset(("prompt", "mixtral_score")), _scored),
    Form("ratings", frozenset(("prompt", "model", "score")), rating),
)
PROMPT_COLUMNS = frozenset(("prompt_id", "prompt"))
