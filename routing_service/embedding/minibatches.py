"""From texts to token ids: what an encoder reads of a prompt.

Of a prompt that is too long, head and tail are read. Characters are cut before tokenising, so that a megabyte costs
what a page costs; then tokens. Lone surrogates are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routing_service.errors import ConfigurationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = npt.NDArray[np.int64]

HEAD = 0.75  # of what is read of a long prompt; the rest is its tail
CHARACTERS = 16  # read a token at most; more than three times what text in any script takes
SURROGATES = re.compile("[\ud800-\udfff]")

__all__ = ["CHARACTERS", "HEAD", "Reader", "clean", "head_and_tail", "load_tokenizer"]


def head_and_tail(text: str, characters: int) -> str:
    """At most so many characters of the text, and a space where the middle was."""
    if len(text) <= characters:
        return text
    head = int(HEAD * characters)
    return f"{text[:head]} {text[head - characters + 1 :]}"


def clean(text: str, characters: int) -> str:
    """What a tokenizer can take of a text: not too long, and Unicode."""
    text = head_and_tail(text, characters)
    return text if text.isascii() else SURROGATES.sub("\ufffd", text)


class Reader:
    """Texts to ids, special tokens included."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, special: bool = True) -> None:
        """`max_tokens` are read of a text, special ones included."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._prefix, self._suffix = _frame(tokenizer) if special else ([], [])
        self._room = max(1, max_tokens - len(self._prefix) - len(self._suffix))
        self._characters = CHARACTERS * max_tokens

    def read(self, texts: Sequence[str]) -> tuple[list[Ids], int]:
        """The ids of every text, empty for a text without any token, and how many texts were too long."""
        cleaned = [clean(text, self._characters) for text in texts]
        read_ids = [one.ids for one in self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)]
        long = sum(
            len(ids) > self._room or len(text) > self._characters for ids, text in zip(read_ids, texts, strict=True)
        )
        return [self._framed(ids) for ids in read_ids], long

    def _framed(self, ids: list[int]) -> Ids:
        if not ids:
            return np.empty(0, np.int64)
        if len(ids) > self._room:
            head = int(HEAD * self._room)
            ids = ids[:head] + ids[head - self._room :]
        return np.array([*self._prefix, *ids, *self._suffix], np.int64)


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the model wants before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []


def load_tokenizer(directory: Path) -> Tokenizer:
    """tokenizer.json, or what transformers makes of an older form. ConfigurationError where there is neither."""
    file = directory / "tokenizer.json"
    try:
        if file.is_file():
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(file))
        from transformers import AutoTokenizer

        converted: Tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False).backend_tokenizer
        return converted
    except Exception as error:  # tokenizers raises bare exceptions
        raise ConfigurationError(f"the tokenizer in {directory} cannot be read: {error}") from error
