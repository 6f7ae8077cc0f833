"""What an encoder is: texts to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Progress = Callable[[int], None]  # called with how many more are done

__all__ = ["Encoder", "Floats", "Progress"]


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
