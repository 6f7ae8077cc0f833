"""What a preview rests on: candidates, the router that scored, prices and bounds; and what of it has changed since.

Kept with the preview as JSON. A plan is only run as it was shown while all of this is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from routing_service.batches.exploration_budget import explored_share
from routing_service.models import Batch
from routing_service.money.pricing import PriceBook
from routing_service.routers.registry import router_identity
from routing_service.settings import Settings


def basis_of(batch: Batch, models: Iterable[str], settings: Settings, prices: PriceBook) -> dict[str, Any]:
    """The basis of a batch whose requests may go to these models: candidates, and what lines are pinned to."""
    return {
        "candidates": list(batch.candidates),
        "router": router_identity(batch.router, settings),
        "explore_budget_share": settings.learning.explore_budget_share,
        "models": {key: _terms(key, settings, prices) for key in models if key in settings.models},
    }


def changes(batch: Batch, basis: Mapping[str, Any], settings: Settings, prices: PriceBook) -> list[str]:
    """What is no longer as the basis says, each in words for a client; empty if nothing is."""
    return list(_changes(batch, basis, settings, prices))


def _changes(batch: Batch, basis: Mapping[str, Any], settings: Settings, prices: PriceBook) -> Iterator[str]:
    if list(settings.candidates) != basis["candidates"]:
        yield f"the candidates (now {', '.join(settings.candidates)})"
    if router_identity(batch.router, settings) != basis["router"]:
        yield f"the router {batch.router!r}"
    part = basis.get("explore_budget_share")  # previews of before this was kept do not explore
    if part not in (None, settings.learning.explore_budget_share) and explored_share(batch.options, batch.candidates):
        yield "the part of budgets that is set aside for exploration"
    for key, before in basis["models"].items():
        if key not in settings.models:
            yield f"the model {key!r}, which is no longer configured"
            continue
        now = _terms(key, settings, prices)
        yield from (f"the {name} of {key!r}" for name in before if before[name] != now[name])


def _terms(key: str, settings: Settings, prices: PriceBook) -> dict[str, Any]:
    model = settings.models[key]
    return {
        "price": prices.rates(key),
        "upstream and bounds": model.bounds,
        "expected_output_tokens": model.expected_output_tokens,
    }
