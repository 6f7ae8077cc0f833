"""What a call may cost and what it will probably cost: prices, token bounds and worst cases, in nano-dollars.

Money is whole nano-dollars (1e-9 USD). A price is nano-dollars a million tokens. Prices come from the configuration,
else from the packaged `genai-prices` data (the network is never asked). Where the data leaves a choice, the dearest is
taken, so that a bill never exceeds what was reserved for it: prices that change by the hour or within the next day
count at their highest, of the rates of several tiers the highest that may hold, and a model whose provider charges for
writing its prompt cache pays that rate for its input.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from routing_service.errors import ConfigurationError
from routing_service.settings import ModelSettings, Settings, config_file

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

NANO = 1_000_000_000
MILLION = 1_000_000
BYTES_PER_TOKEN = 4  # the stated prior of English text
NO_CAP = np.iinfo(np.int64).max

Ints = npt.NDArray[np.int64]

_EXACT = Context(prec=60)


def to_nano(usd: Decimal) -> int:
    """Nano-dollars of an amount in dollars, rounded down."""
    return int((usd * NANO).to_integral_value(ROUND_FLOOR))


def to_usd(nano: int) -> Decimal:
    """Dollars, exactly."""
    return _EXACT.divide(Decimal(nano), Decimal(NANO))


def format_usd(nano: int) -> str:
    """Dollars as an exact decimal string: at least two decimals, none needless beyond (`5.00`, `0.0123`)."""
    whole, fraction = divmod(abs(nano), NANO)
    return f"{'-' if nano < 0 else ''}{whole}.{f'{fraction:09d}'.rstrip('0').ljust(2, '0')}"


def format_usd_up(nano: int) -> str:
    """Dollars rounded up to a millionth: a limit that is to be enough."""
    return format_usd(-(-nano // 1000) * 1000)


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars a million tokens."""

    input: int
    cached_input: int
    output: int


@dataclass(frozen=True, slots=True)
class Step:
    """The price that holds for calls of more than `above` input tokens."""

    above: int
    price: Price


def cost_nano(price: Price, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
    """What a call costs; `cached_tokens` are part of `input_tokens`. Exact, rounded up to a nano-dollar."""
    cached = min(max(cached_tokens, 0), input_tokens)
    micro = (input_tokens - cached) * price.input + cached * price.cached_input + output_tokens * price.output
    return -(-micro // MILLION)


def input_bound(input_bytes: int, model: ModelSettings) -> int:
    """The most input tokens that so many bytes can be: a token of byte-level BPE holds at least a byte."""
    return input_bytes + model.overhead_tokens


def output_bound(cap: int | None, choices: int, model: ModelSettings) -> int:
    """The most output tokens of all choices under the cap that is sent."""
    return min(cap or model.max_output_tokens, model.max_output_tokens) * choices


def worst_case_nano(price: Price, input_bound: int, output_bound: int) -> int:
    """The most that a call can cost: its bounds at the highest input price."""
    highest = max(price.input, price.cached_input)
    return -(-(input_bound * highest + output_bound * price.output) // MILLION)


def expected_nano(price: Price, input_bytes: int, cap: int | None, choices: int, model: ModelSettings) -> int:
    """What a call will probably cost, by a stated prior: 4 bytes a token, `expected_output_tokens` a choice."""
    output = min(model.expected_output_tokens * choices, output_bound(cap, choices, model))
    return cost_nano(price, -(-input_bytes // BYTES_PER_TOKEN) + model.overhead_tokens, output)


class PriceBook:
    """The prices of the configured models, by configuration key."""

    def __init__(self, steps: dict[str, tuple[Step, ...]]) -> None:
        self._steps = steps

    def __contains__(self, model: str) -> bool:
        return model in self._steps

    def price(self, model: str, input_bound: int) -> Price:
        """The highest price that a call of at most `input_bound` tokens can be billed at.

        KeyError for a model that is not configured.
        """
        steps = self._steps[model]
        return steps[max(bisect_left(steps, input_bound, key=lambda step: step.above) - 1, 0)].price

    def rates(self, model: str) -> list[list[int]]:
        """The model's whole price, to be compared: from above so many input tokens, input, cached input, output."""
        return [[s.above, s.price.input, s.price.cached_input, s.price.output] for s in self._steps[model]]

    def worst_cases(self, model: str, settings: ModelSettings, input_bytes: Ints, caps: Ints, choices: Ints) -> Ints:
        """`worst_case_nano` of many requests; a cap of `NO_CAP` is none."""
        bounds = input_bytes + settings.overhead_tokens
        prices = self._price_columns(model, bounds)
        output = np.minimum(caps, settings.max_output_tokens) * choices
        return _amounts((bounds, np.maximum(prices[0], prices[1])), (output, prices[2]))

    def expected_costs(
        self,
        model: str,
        settings: ModelSettings,
        input_bytes: Ints,
        caps: Ints,
        choices: Ints,
        output_tokens: npt.NDArray[np.float64] | None = None,
    ) -> Ints:
        """`expected_nano` of many requests; a cap of `NO_CAP` is none. `output_tokens`: what a choice of each is
        predicted to take, shape (n,); None: the prior."""
        prices = self._price_columns(model, input_bytes + settings.overhead_tokens)
        tokens = -(-input_bytes // BYTES_PER_TOKEN) + settings.overhead_tokens
        cap = np.minimum(caps, settings.max_output_tokens)
        expected = settings.expected_output_tokens if output_tokens is None else np.ceil(output_tokens)
        output = np.minimum(cap, expected).astype(np.int64) * choices
        return _amounts((tokens, prices[0]), (output, prices[2]))

    def _price_columns(self, model: str, bounds: Ints) -> Ints:
        steps = self._steps[model]
        at = np.searchsorted(np.array([step.above for step in steps]), bounds, side="left") - 1
        columns = np.array([[s.price.input, s.price.cached_input, s.price.output] for s in steps], dtype=np.int64)
        return columns[np.maximum(at, 0)].T


def _amounts(*terms: tuple[Ints, Ints]) -> Ints:
    """The sum of tokens x price, exact and rounded up. Split by the million, so that no product leaves 64 bits."""
    total: Ints = np.zeros_like(terms[0][0])
    micro = total.copy()
    for tokens, price in terms:
        total += tokens * (price // MILLION)
        micro += tokens * (price % MILLION)
    return total - (-micro // MILLION)


def price_book(settings: Settings) -> PriceBook:
    """The prices of every configured model. ConfigurationError names the key of a model that has none."""
    return PriceBook({key: tuple(_steps(key, model)) for key, model in settings.models.items()})


def _steps(key: str, model: ModelSettings) -> Iterator[Step]:
    if model.input_usd_per_million is not None and model.output_usd_per_million is not None:
        yield Step(-1, _price(model, model.input_usd_per_million, None, model.output_usd_per_million))
        return
    variants = known_prices(model)
    if not variants:
        missing = "input" if model.input_usd_per_million is None else "output"
        raise ConfigurationError(
            f"{config_file() or 'the environment'}: models.{key}.{missing}_usd_per_million: the price data does not"
            f" know {model.name!r}; set its input_usd_per_million and output_usd_per_million"
        )
    highest = Price(0, 0, 0)
    for above in sorted({-1, *(start for variant in variants for start in tier_starts(variant))}):
        for variant in variants:
            asked = input_rate(variant, above), rate_of(variant, "cache_read_mtok", above)
            price = _price(model, asked[0], asked[1], rate_of(variant, "output_mtok", above))
            # A bound above a tier's start does not mean that the call is: a cheaper tier must not lower the bound.
            highest = Price(
                max(highest.input, price.input),
                max(highest.cached_input, price.cached_input),
                max(highest.output, price.output),
            )
        yield Step(above, highest)


def _price(model: ModelSettings, asked: Decimal | None, cached: Decimal | None, output: Decimal | None) -> Price:
    """Configured rates win key by key. A cached rate belongs to the input rate that it came with."""
    if model.input_usd_per_million is not None:
        asked, cached = model.input_usd_per_million, None
    if model.cached_input_usd_per_million is not None:
        cached = model.cached_input_usd_per_million
    if model.output_usd_per_million is not None:
        output = model.output_usd_per_million
    asked = asked or Decimal(0)
    return Price(_nano_up(asked), _nano_up(asked if cached is None else cached), _nano_up(output or Decimal(0)))


def _nano_up(usd: Decimal) -> int:
    return int((usd * NANO).to_integral_value(ROUND_CEILING))


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
    rate: Decimal = applying[-1] if applying else value.base
    return rate
