"""Forward passes of prompts that all begin with the same instructions: the keys and values of those tokens are computed
once and shared by every row of every minibatch.

A minibatch sees as many of them as all its rows begin with. The shared layers hand out what attention needs and keep
nothing of a minibatch, so that none can change what the next one sees, and memory is that of one layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

__all__ = ["Minibatch", "Prefix", "last_hidden", "minibatches", "prefill"]

MASKED_TO_COMPUTED = 32  # a minibatch's rows may be this much longer with the prefix than its tokens are many


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of every layer, shape (1, heads, tokens, size); of none where layers keep other states."""

    tokens: list[int]
    layers: list[tuple[Tensor, Tensor]]

    def shared_by(self, rows: Sequence[list[int]]) -> int:
        """How many of the prefix's tokens all rows begin with; every row keeps one token of its own at least."""
        if not self.layers:
            return 0
        return min(min(self._common(row), len(row) - 1) for row in rows)

    def _common(self, row: list[int]) -> int:
        if row[: len(self.tokens)] == self.tokens:
            return len(self.tokens)
        return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(self.tokens, row, strict=False)))

    def cache(self, length: int) -> Cache:
        """The first `length` tokens, for a minibatch of any number of rows."""
        return Cache(layers=[_SharedLayer(keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers])


class _SharedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's cache that is never written to."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized = keys, values, True
        self._shared = (keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = (shared.expand(len(key_states), -1, -1, -1) for shared in self._shared)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def prefill(body: Any, tokens: list[int]) -> Prefix:
    """The prefix as that model's body sees it. Gradients flow through it where they are on."""
    cache = DynamicCache(config=body.config)
    body(input_ids=torch.tensor([tokens], device=body.device), past_key_values=cache, use_cache=True)
    # Sliding windows and recurrent states cannot be cut: such a model reads every row as a whole.
    layers = [
        (layer.keys, layer.values)
        for layer in cache.layers
        if type(layer) is DynamicLayer and layer.keys is not None and layer.values is not None
    ]
    return Prefix(tokens, layers if len(layers) == len(cache.layers) else [])


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Rows by their numbers, and how many tokens of the prefix they share."""

    rows: list[int]
    shared: int


def minibatches(rows: Sequence[list[int]], prefix: Prefix, tokens: int) -> Iterator[Minibatch]:
    """Rows of like lengths, of at most that many tokens with padding and without the shared ones; one row at least."""
    order = sorted(range(len(rows)), key=lambda number: (len(rows[number]), number))
    chosen: list[int] = []
    shared = 0
    for number in order:
        own = prefix.shared_by([rows[number]])
        common, most = min(shared, own) if chosen else own, len(rows[number])
        count = len(chosen) + 1
        if chosen and (count * (most - common) > tokens or count * most > MASKED_TO_COMPUTED * tokens):
            yield Minibatch(chosen, shared)
            chosen, common = [], own
        chosen.append(number)
        shared = common
    if chosen:
        yield Minibatch(chosen, shared)


def last_hidden(body: Any, rows: Sequence[list[int]], prefix: Prefix, shared: int) -> Tensor:
    """The hidden states at the rows' last tokens, shape (rows, hidden); padded on the left."""
    longest = max(map(len, rows)) - shared
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.ones((len(rows), shared + longest), dtype=torch.long)
    for place, row in enumerate(rows):
        own = len(row) - shared
        ids[place, longest - own :] = torch.tensor(row[shared:])
        mask[place, shared : shared + longest - own] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, shared:]
    cache = prefix.cache(shared) if shared else None
    output = body(
        input_ids=ids.to(body.device),
        attention_mask=mask.to(body.device),
        position_ids=positions.to(body.device),
        past_key_values=cache,
        use_cache=shared > 0,
    )
    hidden: Tensor = output.last_hidden_state[:, -1]
    return hidden
