"""Tokens as the sandbox counts them: four UTF-8 bytes each, begun ones counted.

No tokenizer is worth its time here. What matters is that a count never exceeds the bytes, as with real byte-level
tokenizers, and that an answer can be cut to a cap exactly.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 4


def count(data: bytes) -> int:
    """Tokens in `data`: at least 1, so that every call costs something, and for non-empty data at most its bytes."""
    return max(1, -(-len(data) // BYTES_PER_TOKEN))


def cut(text: str, cap: int | None) -> tuple[str, int, bool]:
    """The text cut to at most `cap` tokens, its tokens, and whether anything was cut off."""
    data = text.encode()
    if cap is None or len(data) <= cap * BYTES_PER_TOKEN:
        return text, count(data), False
    kept = data[: cap * BYTES_PER_TOKEN].decode(errors="ignore")
    return kept, cap, True
