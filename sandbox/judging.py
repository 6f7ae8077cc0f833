"""A simulated judge: it answers prompts that carry a judge's template, in the form that the template asks for.

It recognises the template by its first line, solves the question where it is one of our word problems, and takes the
last number of an answer for its result. Elsewhere it goes by how the answer agrees with a reference, or sees a tie.
It errs, and prefers what is shown first, as often as it is told: by (seed, prompt) alone.
"""

from __future__ import annotations

import re

from sandbox.answers import draws
from sandbox.config import SandboxConfig
from sandbox.problems import solve

MARK = re.compile(r"routebatch judge template: (pairwise|score)-\w+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
GOOD, POOR, UNSURE = 5, 1, 3


def judged(config: SandboxConfig, prompt: str) -> str | None:
    """The verdict on what a judge's prompt shows; None for any other prompt."""
    mark = MARK.match(prompt)
    if mark is None:
        return None
    parts = _parts(prompt)
    errs, leans, coin = draws(f"{config.seed}\0judge\0{prompt}")
    if mark[1] == "score":
        return f"[[{_score(parts, errs < config.judge_error, coin)}]]"
    if leans < config.judge_bias:
        return "[[A]]"
    return f"[[{_better(parts, errs < config.judge_error, coin)}]]"


def _better(parts: dict[str, str], errs: bool, coin: float) -> str:
    if errs:
        return "ABC"[int(coin * 3)]
    solved = solve(parts.get("question", ""))
    first, second = (solved is not None and _result(parts.get(f"answer {n}", "")) == solved[0] for n in "AB")
    return "C" if first == second else "A" if first else "B"


def _score(parts: dict[str, str], errs: bool, coin: float) -> int:
    if errs:
        return 1 + int(coin * 5)
    wanted = _result(parts.get("reference answer", ""))
    return UNSURE if wanted is None else GOOD if _result(parts.get("answer", "")) == wanted else POOR


def _parts(prompt: str) -> dict[str, str]:
    """The texts between the prompt's rules, by their names; the code of the first rule is that of all."""
    first = re.search(r"^===== \w+ (\w+) =====$", prompt, re.MULTILINE)
    if first is None:
        return {}
    pieces = re.split(rf"^===== (\w[\w ]*?) {first[1]} =====$", prompt, flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(pieces[1::2], pieces[2::2], strict=True)}


def _result(answer: str) -> float | None:
    numbers = _NUMBER.findall(answer.replace(",", ""))
    return float(numbers[-1]) if numbers else None
