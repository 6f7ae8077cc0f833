"""What an encoder is: texts to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np
import numpy.typing as npt

from routing_service.errors import ScoringError

Floats = npt.NDArray[np.float32]
Progress = Callable[[int], None]  # called with how many more are done

__all__ = ["Encoder", "Floats", "NotFiniteError", "Progress", "Shortening", "digest", "finite", "unit"]


class Encoder(Protocol):
    """Deterministic: the same text always gets the same vector, alone or among others, up to rounding."""

    @property
    def spec(self) -> str:
        """What `make_encoder` builds this encoder from, elsewhere too: its name, and its precision."""

    @property
    def identity(self) -> str:
        """What its vectors depend on: weights, precision, tokens read. Vectors of two identities are not compared."""

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Floats:
        """Unit vectors, shape (texts, dimensions), finite; a text without any token gets the zero vector.

        Minibatched, bucketed by length. ScoringError where the encoder fails or gives no finite number.
        """


class Shortening(Encoder, Protocol):
    """An encoder that reads long texts in part."""

    @property
    def shortened(self) -> int:
        """How many texts it has read in part so far."""


class NotFiniteError(ScoringError):
    """An encoder gave NaN or an infinity for the text in that row. Clients read the message: it names no files."""

    def __init__(self, spec: str, row: int) -> None:
        super().__init__(f"the encoder gives no finite vector for text {row + 1}")
        self.add_note(f"the encoder: {spec}")
        self.spec = spec
        self.row = row


def digest(kind: str, *parts: object) -> str:
    """An identity: the kind of encoder, and a hash of all that its vectors depend on."""
    return f"{kind}-{sha256(repr(parts).encode()).hexdigest()[:32]}"


def finite(vectors: Floats, spec: str, rows: npt.NDArray[np.intp]) -> Floats:
    """The vectors, which belong to those rows of the texts. NotFiniteError for the first that is not finite."""
    bad = rows[~np.isfinite(vectors).all(axis=1)]
    if len(bad):
        raise NotFiniteError(spec, int(bad.min()))
    return vectors


def unit(vectors: Floats) -> Floats:
    """Scaled to length one; zero vectors stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return scaled
