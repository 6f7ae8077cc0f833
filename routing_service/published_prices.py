"""What models cost by the packaged `genai-prices` data. The network is never asked.

Where the data leaves a choice, all that may hold is told: prices that change by the hour or within the next day, and
the rates of every tier.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from routing_service.model_settings import ModelSettings

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice


def known_prices(model: ModelSettings) -> list[ModelPrice]:
    """The prices of the packaged data that hold at some time of the next 24 hours; empty where it has none.

    Looked up at the provider that the base URL belongs to, else at whichever provider the name points to. A model that
    also costs a fee per request counts as unknown: tokens do not bound it.
    """
    from genai_prices.data_snapshot import get_snapshot  # takes half a second: only where it is needed

    snapshot = get_snapshot()
    try:
        url: str | None = snapshot.find_provider(None, None, model.origin).id and model.origin
    except LookupError:
        url = None
    try:
        _, known = snapshot.find_provider_model(model.name, None, None, url)
    except LookupError:
        return []
    now = datetime.now(UTC)
    half_hours = (now + timedelta(minutes=30 * step) for step in range(49))
    variants = list({id(price): price for price in map(known.get_prices, half_hours)}.values())
    bounded = all(
        p.input_mtok is not None and p.output_mtok is not None and p.requests_kcount is None for p in variants
    )
    return variants if bounded else []


def tier_starts(prices: ModelPrice) -> Iterator[int]:
    """The numbers of input tokens above which another rate applies."""
    for key in ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok"):
        for tier in getattr(getattr(prices, key), "tiers", ()):
            yield tier.start


def input_rate(prices: ModelPrice, tokens: int) -> Decimal:
    """Dollars a million input tokens; those of writing the prompt cache, where they are dearer."""
    read, write = rate_of(prices, "input_mtok", tokens), rate_of(prices, "cache_write_mtok", tokens)
    return max(read or Decimal(0), write or Decimal(0))


def rate_of(prices: ModelPrice, key: str, above: int) -> Decimal | None:
    """A rate, in dollars a million tokens, for calls of just more than `above` input tokens."""
    value = getattr(prices, key)
    if value is None or isinstance(value, Decimal):
        return value
    applying = [tier.price for tier in value.tiers if tier.start <= above]
    found: Decimal = applying[-1] if applying else value.base
    return found
