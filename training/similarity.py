"""How alike two sets of prompts are: benchmark-dataset similarity (RouteLLM, arXiv 2406.18665, section 5.3).

S(B, D) is the mean, over the prompts of B, of the cosine to the nearest prompt of D: whether a router fitted on D has
seen the like of B. It is not symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder
from training.methods import Progress, silent

Floats = npt.NDArray[np.float32]

ROWS, COLUMNS = 1024, 8192  # of a block of cosines: 32 MB


@dataclass(frozen=True, slots=True)
class Similarity:
    """`nearest`, shape (prompts,): of each prompt of B the cosine to the nearest one of D, and `which` that is."""

    nearest: Floats
    which: npt.NDArray[np.intp]

    @property
    def mean(self) -> float:
        """S(B, D)."""
        return float(self.nearest.mean(dtype=np.float64))


def similarity(
    prompts: Sequence[str], others: Sequence[str], encoder: Encoder, progress: Progress = silent
) -> Similarity:
    """Of prompts B to prompts D, neither of which may be empty. ScoringError where the encoder fails."""
    if not prompts or not others:
        raise ValueError("neither of the two sets of prompts may be empty")
    return nearest(encoded(prompts, encoder, progress), encoded(others, encoder, progress))


def encoded(prompts: Sequence[str], encoder: Encoder, progress: Progress = silent) -> Floats:
    """Unit vectors of the prompts; equal ones are encoded once."""
    place: dict[str, int] = {}
    rows = [place.setdefault(prompt, len(place)) for prompt in prompts]
    with progress("encoding", len(place)) as advance:
        vectors = encoder.encode(list(place), advance)
    found: Floats = vectors[rows]
    return found


def nearest(vectors: Floats, others: Floats) -> Similarity:
    """Of unit vectors, shapes (b, dimensions) and (d, dimensions), block by block: memory grows by b + d alone."""
    best = np.full(len(vectors), -np.inf, np.float32)
    which = np.zeros(len(vectors), np.intp)
    for row in range(0, len(vectors), ROWS):
        here = slice(row, row + ROWS)
        for column in range(0, len(others), COLUMNS):
            cosines = vectors[here] @ others[column : column + COLUMNS].T
            place = cosines.argmax(1)
            found = cosines[np.arange(len(place)), place]
            better = found > best[here]
            best[here][better] = found[better]
            which[here][better] = place[better] + column
    return Similarity(np.clip(best, -1, 1), which)
