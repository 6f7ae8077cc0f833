"""What a batch's requests are ranked by: costs by candidate, and the ratio that the plan cuts. Arrays in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from routing_service.planning import Floats, Ints, gains, ratios
from routing_service.pricing import NO_CAP, PriceBook
from routing_service.settings import Settings


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


def expected_costs(columns: Columns, candidates: Sequence[str], settings: Settings, prices: PriceBook) -> Ints:
    """Nano-dollars that each candidate's answer will probably cost, shape (n, m)."""
    sizes = (columns.input_bytes, columns.output_cap, columns.choices)
    return np.column_stack([prices.expected_costs(key, settings.models[key], *sizes) for key in candidates])


def rank(mode: str, win_rate: npt.NDArray[np.floating] | None, quality: npt.NDArray[np.floating], cost: Ints) -> Floats:
    """What the mode ranks by, shape (n,). `win_rate` is None where no router gave one; no threshold is reached then."""
    if quality.shape[1] == 1:
        return np.full(len(quality), -np.inf)
    if mode == "threshold":
        return np.full(len(quality), -np.inf) if win_rate is None else win_rate.astype(np.float64)
    gain = gains(quality)
    return gain if mode == "share" else ratios(gain, cost)


def fix(ratio: Floats, columns: Columns, strong: str, settings: Settings, prices: PriceBook) -> Floats:
    """The ratio with what is not for the plan to decide: +inf for what is pinned to the strong model, -inf for what
    is pinned elsewhere or could cost more there than its line allows."""
    worst = prices.worst_cases(
        strong, settings.models[strong], columns.input_bytes, columns.output_cap, columns.choices
    )
    pinned = np.array([model is not None for model in columns.pinned], dtype=np.bool_)
    to_strong = np.array([model == strong for model in columns.pinned], dtype=np.bool_)
    ratio = np.where(worst <= columns.max_cost_nano, ratio, -np.inf)
    return np.where(pinned, np.where(to_strong, np.inf, -np.inf), ratio)
