"""Drift: whether traffic still looks like what the routers were fitted on, and whether win rates still hold.

Both figures are compared with what they were at the last re-fit, so that neither's own level matters.

- Similarity of the last week's prompts to a sample of the comparisons: the mean over the former of the greatest cosine
  with the latter (the paper's benchmark-dataset similarity), of TF-IDF vectors of words hashed into 4,096 places: no
  encoder is needed.
- Calibration error of the serving router's win rates on comparisons that came since, less what chance alone would show:
  of few comparisons even the truest win rates seem to be off.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt
import orjson
from sqlalchemy import func, select, text, tuple_
from sqlalchemy.orm import Session

from routing_service.models import Comparison, Request
from routing_service.openai_format.body import prompt_text
from routing_service.routers.gain.text_features import tokens
from training.evaluate.metrics import calibration_error

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

RECENT, KNOWN = 500, 2000  # prompts that are compared
LEAST_RECENT = 100
CHARACTERS = 4000  # of a prompt that are read
PLACES = 4096
SIMULATED = 50

_BATCHES = text(
    "select id, total from batches where created_at > now() - interval '7 days' and total > 0 and purpose = 'client'"
    " order by created_at, id"
)

__all__ = ["excess_error", "hashed_similarity", "traffic_similarity"]


def traffic_similarity(session: Session, last_comparison_id: int) -> float | None:
    """How like the comparisons up to that id the last week's requests are; None where there are too few of either."""
    recent = _recent(session)
    head = func.left(Comparison.prompt, CHARACTERS)
    # Digests are as good as drawn, and sorted by an index.
    query = select(head).where(Comparison.id <= last_comparison_id).order_by(Comparison.digest).limit(KNOWN)
    known = session.scalars(query).all() if len(recent) >= LEAST_RECENT else []
    return hashed_similarity(recent, known) if known else None


def hashed_similarity(prompts: Sequence[str], known: Sequence[str]) -> float:
    """The mean over `prompts` of the greatest cosine with one of `known`, both not empty."""
    there, here = _counts(known), _counts(prompts)
    idf = np.log((1 + len(known)) / (1 + (there > 0).sum(0))) + 1
    a, b = (_unit(counts * idf) for counts in (here, there))
    return float((a @ b.T).max(1).mean())


def excess_error(rates: Floats, gain: Floats, seed: int = 0) -> float:
    """The calibration error of win rates, less its mean for outcomes drawn by these very rates."""
    random = np.random.default_rng(seed)
    drawn = (calibration_error(rates, 2.0 * (random.random(len(rates)) < rates) - 1) for _ in range(SIMULATED))
    return calibration_error(rates, gain) - float(np.mean(list(drawn)))


def _recent(session: Session) -> list[str]:
    """A sample of the last week's prompts, each line of a client's batches as likely as any other."""
    batches = session.execute(_BATCHES).all()
    if not batches:
        return []
    ends = np.cumsum([row.total for row in batches])
    drawn = np.unique(np.random.default_rng(0).integers(ends[-1], size=RECENT))
    places = np.searchsorted(ends, drawn, side="right")
    lines = [(batches[b].id, int(n - ends[b] + batches[b].total + 1)) for n, b in zip(drawn, places, strict=True)]
    query = select(Request.body).where(tuple_(Request.batch_id, Request.line).in_(lines))
    return [prompt_text(orjson.loads(body))[:CHARACTERS] for body in session.scalars(query)]


def _counts(prompts: Sequence[str]) -> Vectors:
    """1 + log of how often each place is hit, 0 where it is not; shape (prompts, places)."""
    counts = np.zeros((len(prompts), PLACES), np.float32)
    for row, words in zip(counts, tokens(prompts), strict=True):
        for word in words:
            row[crc32(word.encode("utf-8", "surrogatepass")) % PLACES] += 1
    return np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0).astype(np.float32)


def _unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    length = np.sqrt(np.square(vectors).sum(1, keepdims=True))
    unit: Vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return unit
