"""`evaluate` says of which routers it knows, or must fear, that they were fitted on what measures them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cli.evaluate.run import known
from routing_service.routers.registry import Router
from training.evaluate.benchmark_sets import Benchmark

SHIPS = {"tables": {"gsm8k": 9}}  # as the router's metadata that ships name what it was fitted on


@pytest.mark.parametrize(
    ("name", "data", "left_out", "warned"),
    [
        ("version-3", {}, 0, True),
        ("auto", {}, 0, True),
        ("auto", SHIPS, 0, False),
        ("version-3", {}, 5, False),
        ("my-router", {}, 0, False),
    ],
)
def test_a_router_version_is_warned_of_on_comparisons_that_it_may_know(
    name: str, data: dict[str, Any], left_out: int, warned: bool
) -> None:
    router = cast(Router, SimpleNamespace(metadata={"data": data}))
    ones = np.ones(1)
    comparisons = Benchmark("comparisons", ["1 + 1?"], ones, 1 - ones, ("big", "small"), left_out=left_out)
    assert bool(known(name, router, comparisons)) is warned
