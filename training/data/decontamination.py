"""Leaving out of the training data what an evaluation set holds; and how similar two sets of prompts are.

A prompt is contaminated if one of the evaluation set is the same but for case, spaces and typographic signs, or if the
cosine of the two is at least a limit by an encoder. Without an encoder only the first is looked for.

Benchmark-dataset similarity S(B, D) (RouteLLM, arXiv 2406.18665, section 5.3) is the mean, over the prompts of B, of
the cosine to the nearest prompt of D: whether a router fitted on D has seen the like of B. It is not symmetric.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.embedding.registry import Encoder
from training.data.comparisons import Comparisons
from training.data.tables import DataError
from training.progress import Progress, silent

SIMILARITY = 0.95
TYPOGRAPHIC = str.maketrans("‘’‚“”„–—−", "'''\"\"\"---")


@dataclass(frozen=True, slots=True)
class Decontamination:
    """What was left out: prompts that are the `same` or too `similar`, and the `rows` about them. `similarity` and
    `encoder` are None where only the same were looked for. `against`: how many prompts of evaluation sets."""

    same: int
    similar: int
    rows: int
    against: int
    similarity: float | None
    encoder: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decontaminated(
    comparisons: Comparisons,
    evaluation: Iterable[str],
    *,
    encoder: Encoder | None = None,
    similarity: float = SIMILARITY,
    progress: Progress = silent,
) -> tuple[Comparisons, Decontamination]:
    """The comparisons without those on prompts that the evaluation sets hold, and what was left out.

    DataError where nothing is left; ScoringError where the encoder fails.
    """
    against = list(dict.fromkeys(evaluation))
    same = np.array(_same(comparisons.prompts, against), bool)
    similar = np.zeros(len(same), bool)
    if encoder is not None and against:
        others = np.flatnonzero(~same)
        vectors = encoded([comparisons.prompts[i] for i in others.tolist()], encoder, progress)
        close = nearest(vectors, encoded(against, encoder, progress)).nearest >= similarity
        similar[others[close]] = True
    kept = np.flatnonzero(~(same | similar)[comparisons.prompt])
    if not len(kept):
        raise DataError(
            "no comparison is left: the evaluation sets hold all prompts of the training data, or their like"
        )
    counted = Decontamination(
        same=int(same.sum()),
        similar=int(similar.sum()),
        rows=len(comparisons) - len(kept),
        against=len(against),
        similarity=similarity if encoder is not None else None,
        encoder=encoder.spec if encoder is not None else None,
    )
    return comparisons.take(kept), counted


def normalised(prompt: str) -> str:
    """A prompt without what copies of it differ by: case, spaces, typographic signs."""
    return " ".join(unicodedata.normalize("NFKC", prompt).translate(TYPOGRAPHIC).casefold().split())


def _same(prompts: Sequence[str], against: Sequence[str]) -> list[bool]:
    known = set(map(normalised, against))
    return [normalised(prompt) in known for prompt in prompts]


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
    encodings: Floats = vectors[rows]
    return encodings


def nearest(vectors: Floats, others: Floats) -> Similarity:
    """Of unit vectors, shapes (b, dimensions) and (d, dimensions), block by block: memory grows by b + d alone."""
    best = np.full(len(vectors), -np.inf, np.float32)
    which = np.zeros(len(vectors), np.intp)
    for row in range(0, len(vectors), ROWS):
        here = slice(row, row + ROWS)
        for column in range(0, len(others), COLUMNS):
            cosines = vectors[here] @ others[column : column + COLUMNS].T
            place = cosines.argmax(1)
            closest = cosines[np.arange(len(place)), place]
            better = closest > best[here]
            best[here][better] = closest[better]
            which[here][better] = place[better] + column
    return Similarity(np.clip(best, -1, 1), which)
