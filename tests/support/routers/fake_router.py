"""A router for tests of the command line: its estimate is the prompt's length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from routing_service.errors import ScoringError
from routing_service.routers.base import Floats
from routing_service.settings import Settings


class LengthRouter:
    """Gain and deviation by the prompt's length; remembers how many prompts and which models it was given at a time."""

    name = "length"

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.models: set[tuple[str, str]] = set()  # strong, weak

    def _gain(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        self.asked.append(len(prompts))
        self.models.add((strong, weak))
        if "unknown" in (strong, weak):
            raise ScoringError("the length router does not know the model 'unknown'")
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.float32)
        gain: Floats = np.minimum(lengths / np.float32(10), np.float32(1))
        return gain

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        gain = self._gain(prompts, models[1], models[0])
        quality = np.column_stack([np.full_like(gain, 0.5), 0.5 + gain / 2])
        return quality, np.column_stack([np.zeros_like(gain), gain / 4])

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        return np.float32(0.5) + self._gain(prompts, strong, weak) / np.float32(2)

    def explain(self, prompt: str) -> dict[str, Any]:
        if not prompt:
            raise ScoringError("the length router has nothing to say of nothing")
        words = [{"word": word, "letters": len(word)} for word in prompt.split()]
        return {
            "router": self.name,
            "win_rate": 0.5 + len(prompt) / 20,
            "note": "[bold]by length[/bold]",
            "words": words,
            "members": [{"router": "one", "parts": words[:1]}],
            "nothing": [],
        }

    def save(self, directory: Path) -> None:
        raise OSError("nothing to save")

    @classmethod
    def load(cls, directory: Path, settings: Settings | None = None) -> Self:
        return cls()
