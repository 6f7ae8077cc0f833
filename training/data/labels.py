"""Labels: what a router for one pair of models is fitted on.

A label is a prompt and its gain: the quality of the strong model's answer minus that of the weak model's, in [-1, 1].
`Comparisons.labels` gives those of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from training.data.tables import BadRow, DataError

Floats = npt.NDArray[np.float64]

__all__ = ["BadRow", "DataError", "Labels", "draw", "fingerprint", "require_contrast", "split"]


@dataclass(frozen=True, slots=True)
class Labels:
    """`gain` in [-1, 1] and `weight` > 0, both of shape (n,); a prompt may have several labels."""

    prompts: list[str]
    gain: Floats
    weight: Floats
    source: list[str]

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.gain) == len(self.weight) == len(self.source):
            raise ValueError("labels need as many prompts, gains, weights and sources")

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> Labels:
        """The labels of these rows, in this order."""
        index = np.asarray(rows, dtype=np.intp)
        chosen = index.tolist()
        return Labels(
            [self.prompts[i] for i in chosen], self.gain[index], self.weight[index], [self.source[i] for i in chosen]
        )


def require_contrast(labels: Labels) -> None:
    """DataError where all labels say the same: such data cannot tell one prompt from another."""
    if not len(labels):
        raise DataError("there are no labels")
    if np.ptp(labels.gain) == 0:
        only = labels.gain[0]
        raise DataError(
            f"all {len(labels)} labels say the same (gain {only:g}): a router needs prompts where the models differ "
            "and prompts where they do not"
        )


def fingerprint(labels: Labels) -> str:
    """A sha256 over the labels, in their order: data of the same fingerprint give the same router."""
    digest = sha256()
    for prompt, source in zip(labels.prompts, labels.source, strict=True):
        digest.update(sha256(prompt.encode("utf-8", "surrogatepass")).digest() + source.encode() + b"\n")
    digest.update(np.ascontiguousarray(labels.gain, "<f8").tobytes())
    digest.update(np.ascontiguousarray(labels.weight, "<f8").tobytes())
    return digest.hexdigest()


def split(labels: Labels, fraction: float, seed: int) -> tuple[Labels, Labels]:
    """About `fraction` of the prompts with all their labels, and the rest.

    By sha256 of seed and prompt alone: a prompt never stands on both sides, and keeps its side when others come or go.
    """
    if not 0 <= fraction <= 1:
        raise ValueError("fraction must be within 0 and 1")
    limit = int(fraction * 2**64)
    sides = [draw(prompt, seed) < limit for prompt in labels.prompts]
    first = np.array(sides, dtype=bool)
    return labels.take(np.flatnonzero(first)), labels.take(np.flatnonzero(~first))


def draw(prompt: str, seed: int) -> int:
    """A number below 2 ** 64 that depends on seed and prompt alone."""
    key = f"{seed}\n{prompt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(sha256(key).digest()[:8], "big")
