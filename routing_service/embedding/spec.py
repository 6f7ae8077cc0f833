"""How an encoder is named: `NAME[@PRECISION][,TOKENS]`, as in `minilm@int8,256`.

NAME is `minilm`, a path, a hub name, `static`, `static:PATH` or `endpoint:MODEL`. What a name leaves open the settings
say; an artifact keeps the name with everything said, so that its encoder is rebuilt alike where the settings differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from routing_service.errors import ConfigurationError
from routing_service.settings import Settings

Kind = Literal["local", "static", "endpoint"]
Precision = Literal["auto", "float", "int8"]

MAX_TOKENS = 32_768
_PARTS = re.compile(
    r"(?P<name>.*?)(?:@(?P<precision>float|int8|auto)(?:,(?P<both>\d+))?|@(?P<alone>\d+))?", re.DOTALL | re.ASCII
)

__all__ = ["Spec", "parse"]


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
