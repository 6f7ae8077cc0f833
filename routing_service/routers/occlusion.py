"""Why a router that shows no reasons of its own estimates what it does: what changes when a part of the prompt is gone.

The prompt is cut into segments of about one length at the ends of sentences and lines, or of words where sentences are
few or long; every segment is left out once, and the router scores all these texts in one call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

SEGMENTS = 16
EXCERPT = 200  # characters of a segment that are shown

# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Han. Two characters are about a word.
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# A word with the space behind it. What runs on without a space for longer is no word, and is cut.
_words = re.compile(rf"[{_SPACELESS}]{{1,2}}\s*|[^\s{_SPACELESS}]{{1,32}}\s*|\s+").findall
_ends_of_sentences = re.compile(r"[.!?…؟۔।][\"')\]»”]*\s+|[。！？][\"')\]」』”]*\s*|\n\s*").finditer

__all__ = ["explain_by_occlusion", "segments_of"]


class _Scores(Protocol):
    @property
    def name(self) -> str: ...

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> npt.NDArray[np.float32]: ...


def explain_by_occlusion(
    router: _Scores, prompt: str, strong: str = "strong", weak: str = "weak", segments: int = SEGMENTS
) -> dict[str, Any]:
    """As JSON: `router`, `win_rate`, and `segments` with an excerpt of their text and their `contribution`, which is
    the win rate of the whole prompt minus that of the prompt without the segment; those that move it most come first.

    A prompt of nothing but space has no segments. Errors are those of `router.win_rates`.
    """
    parts = segments_of(prompt, segments)
    without = ["".join(parts[:number] + parts[number + 1 :]) for number in range(len(parts))]
    whole, *rates = router.win_rates([prompt, *without], strong, weak).tolist()
    contributions = [
        {"text": _excerpt(part), "contribution": whole - rate} for part, rate in zip(parts, rates, strict=True)
    ]
    contributions.sort(key=lambda segment: -abs(segment["contribution"]))
    return {"router": router.name, "win_rate": whole, "segments": contributions}


def segments_of(text: str, most: int = SEGMENTS) -> list[str]:
    """The text in at most `most` segments, in order, nothing left out; none for a text of nothing but space."""
    if not text.strip():
        return []
    words = _words(text)
    count = min(most, len(words))
    pieces: list[str] = []
    for sentence in _sentences(text):
        pieces += [sentence] if len(sentence) * count <= 2 * len(text) else _words(sentence)
    groups = [""] * count
    start = 0
    for piece in pieces:
        middle = start + len(piece) / 2
        groups[int(middle * count / len(text))] += piece
        start += len(piece)
    return [group for group in groups if group]


def _sentences(text: str) -> list[str]:
    borders = [0, *(match.end() for match in _ends_of_sentences(text)), len(text)]
    return [text[a:b] for a, b in pairwise(borders) if a < b]


def _excerpt(text: str) -> str:
    # A lone surrogate has no UTF-8, and what explains a router must be fit to print.
    shown = text.strip().encode("utf-8", "replace").decode()
    return shown if len(shown) <= EXCERPT else shown[: EXCERPT - 1] + "…"
