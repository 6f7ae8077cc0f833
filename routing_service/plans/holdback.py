"""The holdback: cheap lines that another cut would upgrade first wait while dearer ones are still to be sent.

Where money or concurrency holds the dear end of a batch up, the cheap end runs ahead of it; once it has run out,
nothing is left that money saved by the dear end could buy. So its lines nearest to the cut wait, a part of as many as
there are dear ones to send: those are the bottleneck then, and nothing is lost by waiting.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from routing_service.models import Batch
from routing_service.planning import Floats, Plan
from routing_service.plans.stored import Scored

SHARE = 0.25  # of the lines that are still to be sent to dearer models


class HoldbackCutoff(NamedTuple):
    """The last line that is held back: only what ranks below it, in the order of (ratio, -line), may be sent."""

    ratio: float
    line: int


def holdback_cutoff(table: Scored, ratio: Floats, made: Plan) -> HoldbackCutoff | None:
    """The cutoff for ratios of shape (n,); None where there is nothing to hold back."""
    cheap = (ratio < made.shadow_price) | ((ratio == made.shadow_price) & (table.line > made.cut_line))
    wanted = math.ceil(SHARE * np.count_nonzero(~cheap & ~table.pinned))
    could = np.flatnonzero(cheap & ~table.pinned & (ratio > 0) & np.isfinite(ratio))
    if not wanted or not len(could):
        return None
    order = np.lexsort((table.line[could], -ratio[could]))
    last = could[order[min(wanted, len(could)) - 1]]
    return HoldbackCutoff(float(ratio[last]), int(table.line[last]))


def store_holdback(batch: Batch, cutoff: HoldbackCutoff | None) -> None:
    batch.reserve_ratio, batch.reserve_line = cutoff or (None, None)
