"""What a batch's requests are ranked by: costs by candidate, and the steps that the plan cuts. Arrays in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.money.pricing import NO_CAP, PriceBook
from routing_service.planning import NEVER, Floats, Ints, steps
from routing_service.settings import Settings

Bools = npt.NDArray[np.bool_]
BY_COST = frozenset(("plan", "target_quality"))  # modes that rank by gain per dollar


@dataclass(frozen=True, slots=True)
class Columns:
    """Of the requests to rank, shape (n,) each. An absent cap is `NO_CAP`."""

    input_bytes: Ints
    output_cap: Ints
    choices: Ints
    max_cost_nano: Ints
    pinned: list[str | None]  # the model's key

    @classmethod
    def of(cls, rows: Sequence[Any]) -> Columns:
        """The columns of rows that have attributes of these names."""
        return cls(
            input_bytes=np.array([row.input_bytes for row in rows], dtype=np.int64),
            output_cap=np.array([row.output_cap or NO_CAP for row in rows], dtype=np.int64),
            choices=np.array([row.choices for row in rows], dtype=np.int64),
            max_cost_nano=np.array([row.max_cost_nano or NO_CAP for row in rows], dtype=np.int64),
            pinned=[row.pinned for row in rows],
        )

    @property
    def sizes(self) -> tuple[Ints, Ints, Ints]:
        """What a call's cost depends on besides its model."""
        return self.input_bytes, self.output_cap, self.choices


def expected_costs(
    columns: Columns,
    candidates: Sequence[str],
    settings: Settings,
    prices: PriceBook,
    tokens: Mapping[str, Floats] | None = None,
) -> Ints:
    """Nano-dollars that each candidate's answer will probably cost, shape (n, m). `tokens`: what a choice is predicted
    to take, by model, shape (n,) each; of a model that is not there the prior counts."""
    known = tokens or {}
    return np.column_stack(
        [prices.expected_costs(key, settings.models[key], *columns.sizes, known.get(key)) for key in candidates]
    )


def floors(
    columns: Columns,
    floor: Ints,
    cheapest: Ints,
    settings: Settings,
    prices: PriceBook,
    tokens: Mapping[str, Floats] | None = None,
) -> Ints:
    """What is kept for each request until it is dispatched, shape (n,): the expected cost of the model it is pinned to,
    else of the `cheapest` candidate. `floor` stays where a line is pinned to a model that is no longer configured."""
    lowest = cheapest.copy()
    pinned = np.array(columns.pinned, dtype=object)
    for key in {key for key in columns.pinned if key is not None}:
        mine = pinned == key
        known = key in settings.models
        lowest[mine] = expected_costs(columns, [key], settings, prices, tokens)[mine, 0] if known else floor[mine]
    return lowest


def allowed(columns: Columns, candidates: Sequence[str], settings: Settings, prices: PriceBook) -> Bools:
    """Which candidates the line's `max_cost_usd` can afford at their worst, shape (n, m); the cheapest is never taken
    away here, for it is what is left."""
    worst = [prices.worst_cases(key, settings.models[key], *columns.sizes) for key in candidates]
    may: Bools = np.column_stack(worst) <= columns.max_cost_nano[:, None]
    may[:, 0] = True
    return may


def rank(
    mode: str, win_rate: npt.NDArray[np.floating] | None, quality: npt.NDArray[np.floating], cost: Ints, may: Bools
) -> Floats:
    """What the mode ranks by: the step at which each candidate is reached, shape (n, m), as `planning.steps`.

    `quality`: of a request whose answer serves several lines, as many times. `may`: `allowed`. `win_rate` is None where
    no router gave one; no threshold is reached then. Of more than two candidates only the modes that rank by cost use
    those in the middle.
    """
    if mode in BY_COST:
        return steps(cost, np.where(may, quality, NEVER))
    ratios = np.full(quality.shape, NEVER)
    ratios[:, 0] = np.inf
    if quality.shape[1] > 1:
        strong = 2.0 * (quality[:, -1].astype(np.float64) - quality[:, 0])
        if mode == "threshold":
            strong = np.full(len(quality), NEVER) if win_rate is None else win_rate.astype(np.float64)
        ratios[:, -1] = np.where(may[:, -1], strong, NEVER)
    return ratios


def first_steps(step: Floats, columns: Columns, candidates: Sequence[str]) -> Floats:
    """The ratio that a request is claimed by, shape (n,): its first step. What is pinned is not for the plan to decide:
    +inf for a candidate above the cheapest, NEVER for any other model."""
    ratio = step[:, 1:].max(axis=1, initial=NEVER)
    pinned = np.array([model is not None for model in columns.pinned], dtype=np.bool_)
    dear = np.array([model in candidates[1:] for model in columns.pinned], dtype=np.bool_)
    return np.where(pinned, np.where(dear, np.inf, NEVER), ratio)
