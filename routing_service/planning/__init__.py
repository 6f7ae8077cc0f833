"""PURE: qualities, costs and a budget in, a plan out. Which requests of a batch deserve which model."""

from __future__ import annotations

from routing_service.planning.allocation import Ranking, allocate, damping
from routing_service.planning.hull import chosen, increments, steps
from routing_service.planning.pair import (
    LAST_LINE,
    NANO,
    Bools,
    Floats,
    Ints,
    Plan,
    cut,
    cut_share,
    cut_threshold,
    gains,
    ratios,
)

__all__ = [
    "LAST_LINE",
    "NANO",
    "Bools",
    "Floats",
    "Ints",
    "Plan",
    "Ranking",
    "allocate",
    "chosen",
    "cut",
    "cut_share",
    "cut_threshold",
    "damping",
    "gains",
    "increments",
    "ratios",
    "steps",
]
