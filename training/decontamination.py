"""Leaving out of the training data what an evaluation set holds, so that figures on that set mean something.

A prompt is contaminated if one of the evaluation set is the same but for case, spaces and typographic signs, or if the
cosine of the two is at least a limit by an encoder. Without an encoder only the first is looked for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from routing_service.embedding.registry import Encoder
from training.comparisons import Comparisons
from training.methods import Progress, silent
from training.similarity import encoded, nearest
from training.tables import DataError

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
