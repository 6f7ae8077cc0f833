"""Made-up answers: a simulation of a strong and a weak model, not a language model.

Both solve our own word problems by reading them and computing; the weak one then slips more often the more steps a
problem has, the strong one seldom. Whether it slips depends on (seed, model strength, prompt, choice) alone.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

from sandbox.config import SandboxConfig
from sandbox.problems import Step, working

STRONG_ERROR = 0.03
WEAK_ERROR = (0.0, 0.05, 0.15, 0.30, 0.45, 0.60, 0.72)
"""Probability of a wrong answer by the number of steps."""

LEAST_WORDS, MOST_WORDS = 18, 70
_FILLER = (
    "This upstream is a simulation so it can only talk about your question in general terms and the text that "
    "follows is filler of a plausible length which no model has written but which costs as much as an answer would"
)


class Answers(Protocol):
    """Where answers come from."""

    fingerprint: str

    def answer(self, model: str, prompt: str, choice: int) -> str: ...


class SyntheticAnswers:
    """Answers any model name: strong if the name says so, weak otherwise."""

    fingerprint = "simulation"

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config

    def answer(self, model: str, prompt: str, choice: int) -> str:
        strong = self._config.is_strong(model) is True
        slip, size, length = draws(f"{self._config.seed}\0{strong}\0{choice}\0{prompt}")
        steps = working(prompt)
        if steps is None:
            return _generic(length)
        error = STRONG_ERROR if strong else WEAK_ERROR[min(len(steps), len(WEAK_ERROR) - 1)]
        return _solution(steps, _off_by(steps[-1].result, size) if slip < error else steps[-1].result)


def draws(key: str) -> tuple[float, float, float]:
    """Three independent numbers in [0, 1) that depend on the key alone."""
    digest = blake2b(key.encode(errors="replace"), digest_size=24).digest()
    a, b, c = (int.from_bytes(digest[start : start + 8]) / 2**64 for start in (0, 8, 16))
    return a, b, c


def _solution(steps: list[Step], answer: int) -> str:
    lines = [str(step) for step in steps[:-1]]
    last = steps[-1]
    lines.append(f"{last.left} {last.op} {last.right} = {answer}")
    return "\n".join(["Let us work it out.", *lines, f"Answer: {answer}"])


def _off_by(answer: int, size: float) -> int:
    """A wrong answer of a calculating slip's size: never the right one, never negative."""
    slip = 1 + int(size * 20)
    return answer + slip if slip % 2 or slip > answer else answer - slip


def _generic(length: float) -> str:
    count = LEAST_WORDS + int(length * (MOST_WORDS - LEAST_WORDS))
    words = _FILLER.split() * 2
    return " ".join(words[:count]) + "."
