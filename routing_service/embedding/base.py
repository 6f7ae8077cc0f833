"""What an encoder is (texts to unit vectors), and how one is named: `NAME[@PRECISION][,TOKENS]`, as `minilm@int8,256`.

NAME is `minilm`, a path, a hub name, `static`, `static:PATH` or `endpoint:MODEL`. What a name leaves open the settings
say; an artifact keeps the name with everything said, so that its encoder is rebuilt alike where the settings differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from routing_service.errors import ConfigurationError, ScoringError
from routing_service.settings import Settings

__all__ = ["Encoder", "Floats", "NotFiniteError", "Progress", "Shortening", "Spec", "digest", "finite", "parse", "unit"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[int], None]  # called with how many more are done


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


Kind = Literal["local", "static", "endpoint"]
Precision = Literal["auto", "float", "int8"]

MAX_TOKENS = 32_768
_PARTS = re.compile(
    r"(?P<name>.*?)(?:@(?P<precision>float|int8|auto)(?:,(?P<both>\d+))?|@(?P<alone>\d+))?", re.DOTALL | re.ASCII
)


@dataclass(frozen=True, slots=True)
class Spec:
    """An encoder's name in its parts. `name` is a model's: a packaged one, a path, a hub's, an endpoint's."""

    kind: Kind
    name: str
    precision: Precision | None  # of local encoders
    tokens: int

    def __str__(self) -> str:
        kinds = {"local": self.name, "static": "static", "endpoint": f"endpoint:{self.name}"}
        name = f"static:{self.name}" if self.kind == "static" and self.name != "minilm" else kinds[self.kind]
        return f"{name}@{self.precision},{self.tokens}" if self.precision else f"{name}@{self.tokens}"


def parse(text: str, settings: Settings) -> Spec:
    """ConfigurationError for what is no name; what it does not say the settings do."""
    match = _PARTS.fullmatch(text)
    assert match is not None  # the pattern takes every text
    name = match["name"].strip()
    said = match["both"] or match["alone"]
    tokens = int(said[:9]) if said else settings.embedding.max_tokens
    if not name or len(name) > 1000 or not name.isprintable() or not 8 <= tokens <= MAX_TOKENS:
        raise ConfigurationError(
            f"{text[:80]!r} names no encoder: minilm, static, a path, a hub name or endpoint:MODEL"
        )
    prefix, colon, rest = name.partition(":")
    if prefix == "endpoint":
        if not rest:
            raise ConfigurationError("embedding.encoder: name the endpoint's model, as in endpoint:MODEL")
        return Spec("endpoint", rest, None, tokens)
    if prefix == "static" and (rest or not colon):
        return Spec("static", rest or "minilm", None, tokens)
    chosen: Any = match["precision"]  # one of them, by the pattern
    return Spec("local", name, chosen or settings.embedding.precision, tokens)
