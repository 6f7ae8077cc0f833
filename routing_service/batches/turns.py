"""Whose turn it is: the batch that a pump claims from next.

A higher priority comes first. Between equals it is the API key with the fewest calls in flight, so that a key with
fifty batches gets no more than a key with one; and of that key the batch with the fewest. Where answers come at once,
or a rate holds calls up, hardly any are in flight: then it is whoever was served longest ago.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from routing_service.batches.runnable import Runnable


class Turns:
    """One pump's: what it has in flight, and whom it served when."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()
        self._by_batch: Counter[str] = Counter()
        self._served: dict[str, int] = {}  # keys and batches, by the number of the bite that they had last
        self._bites = 0

    def next(self, batches: Iterable[Runnable]) -> Runnable:
        return min(batches, key=self._place)

    def _place(self, batch: Runnable) -> tuple[object, ...]:
        own, key = batch.batch_id, batch.api_key_id
        of_key = (self._by_key[key], self._served.get(key, 0))
        return (-batch.priority, *of_key, self._by_batch[own], self._served.get(own, 0), batch.created_at)

    def served(self, batch: Runnable) -> None:
        """It was its turn, and it had something to send."""
        self._bites += 1
        self._served[batch.batch_id] = self._served[batch.api_key_id] = self._bites

    def sent(self, batch: Runnable) -> None:
        self._by_key[batch.api_key_id] += 1
        self._by_batch[batch.batch_id] += 1

    def ended(self, batch: Runnable) -> None:
        self._by_key[batch.api_key_id] -= 1
        self._by_batch[batch.batch_id] -= 1
