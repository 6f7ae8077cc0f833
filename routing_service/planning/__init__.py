"""PURE: qualities, costs and a budget in, a plan out. Which requests of a batch deserve which model."""

from __future__ import annotations

from routing_service.planning.allocation import LAST_LINE, Plan, Ranking, allocate, damping_of
from routing_service.planning.frontier import Rung, frontier, ladder
from routing_service.planning.hull import NANO, NEVER, Damping, Floats, Ints, chosen, increments, steps

__all__ = [
    "LAST_LINE",
    "NANO",
    "NEVER",
    "Damping",
    "Floats",
    "Ints",
    "Plan",
    "Ranking",
    "Rung",
    "allocate",
    "chosen",
    "damping_of",
    "frontier",
    "increments",
    "ladder",
    "steps",
]
