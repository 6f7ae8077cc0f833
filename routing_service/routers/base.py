"""What a router is: an estimate of the quality of each candidate model's answer to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Router(Protocol):
    """Stateless towards its callers: the same prompt always gets the same estimate."""

    @property
    def name(self) -> str:
        """The method's name, as batches name it."""

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        """Quality and its standard deviation, each of shape (prompts, models), in [0, 1].

        Relative to the cheapest model, which comes first: its column is 0.5, and column j is the probability that
        model j's answer is preferred over the cheapest's, ties as half.
        """

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        """The two-model view, shape (prompts,): the probability that strong's answer is preferred, ties as half."""

    def explain(self, prompt: str) -> dict[str, Any]:
        """Why this prompt gets its estimate, as JSON: at least `router` and `win_rate`."""

    def save(self, directory: Path) -> None:
        """Write the artifact that `load` rebuilds this router from. ArtifactError if it cannot be written."""

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Rebuild a saved router. ArtifactError for whatever is wrong with the artifact."""
