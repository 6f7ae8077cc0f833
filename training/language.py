"""The language that a prompt is written in, by py3langid: n-grams of bytes, 140 languages, without a network."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNKNOWN = "unknown"
READ_CHARACTERS = 1000  # of a prompt
LEAST_PROBABILITY = 1 / 3  # of 140 languages: below it a short prompt may be in any


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(prompt: str) -> str:
    """Its ISO 639 code, or `unknown` where it has too few words to tell (about 1,000 prompts a second)."""
    read = prompt[:READ_CHARACTERS]
    if not any(character.isalpha() for character in read):
        return UNKNOWN
    code, probability = _identifier().classify(read)
    return str(code) if probability >= LEAST_PROBABILITY else UNKNOWN
