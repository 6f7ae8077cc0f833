"""The settlement loop: results are settled together as they come, while the pump claims and calls.

Every `settle_interval_ms`, or sooner when enough has come. A statement is bounded by number and by bytes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Mapping
from contextlib import suppress

from routing_service.db import Database
from routing_service.dispatch.lease import Lease, run_while_leased
from routing_service.dispatch.settle import Result, settle
from routing_service.errors import LeaseLostError
from routing_service.events import FinishDue, PlanDue, Publisher
from routing_service.plans.replan import take_due
from routing_service.settings import DispatchSettings, ModelSettings
from routing_service.upstream.client import AnswerMemory
from routing_service.upstream.outcome import RetryPolicy

log = logging.getLogger(__name__)


class SettlementLoop:
    """Make it in the event loop that runs it. `arrived` is set when results have been settled."""

    def __init__(
        self,
        database: Database,
        settings: DispatchSettings,
        models: Mapping[str, ModelSettings],
        publisher: Publisher,
        lease: Lease,
        memory: AnswerMemory,
        arrived: asyncio.Event,
    ) -> None:
        self._database, self._settings, self._publisher = database, settings, publisher
        self._models = models
        self._lease, self._memory, self._arrived = lease, memory, arrived
        self._policy = RetryPolicy.of(settings)
        self._rng = random.Random()  # noqa: S311
        self._results: list[Result] = []
        self._due = asyncio.Event()  # there is enough for a settlement, or an end of it
        self._closed = self._ended = False

    @property
    def pending(self) -> bool:
        return bool(self._results)

    def add(self, result: Result) -> None:
        if self._ended:
            return  # the lease is lost: what comes now is the sweep's
        self._results.append(result)
        self._memory.hold(_size(result))
        if len(self._results) >= self._settings.settle_results or self._memory.full:
            self._due.set()

    def close(self) -> None:
        """No more will come: settle what is there and end."""
        self._closed = True
        self._due.set()

    async def run(self) -> None:
        """Settle until closed. A lost lease ends it: what is left is the sweep's."""
        try:
            await self._settle_as_they_come()
        except LeaseLostError as error:
            log.warning("%s: what was not settled is left to the sweep", error)
        finally:
            self._ended = True
            self._drop(self._results)

    async def _settle_as_they_come(self) -> None:
        interval_s = self._settings.settle_interval_ms / 1000
        while self._results or not self._closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), interval_s)
            self._due.clear()
            while self._results:
                chunk = self._chunk()
                finishable, due = await self._settle_chunk(chunk)
                self._drop(chunk)
                self._arrived.set()
                for batch_id in finishable:
                    await asyncio.to_thread(self._publisher.publish, FinishDue(batch_id))
                for batch_id in due:
                    await asyncio.to_thread(self._publisher.publish, PlanDue(batch_id))

    def _chunk(self) -> list[Result]:
        """The first results, as many as go into one statement."""
        size = 0
        for number, result in enumerate(self._results[: self._settings.settle_results]):
            size += _size(result)
            if number and size > self._settings.max_response_bytes:
                return self._results[:number]
        return self._results[: self._settings.settle_results]

    def _drop(self, results: list[Result]) -> None:
        self._memory.free(sum(map(_size, results)))
        del self._results[: len(results)]

    async def _settle_chunk(self, chunk: list[Result]) -> tuple[list[str], list[str]]:
        """Settle together; where the database refuses, one by one, so that one result cannot burn the others."""
        try:
            return await run_while_leased(self._lease, lambda: self._settle(chunk))
        except LeaseLostError:
            raise
        except Exception:
            log.exception("%d results could not be settled, the first of attempt %d", len(chunk), chunk[0].attempt_id)
        if len(chunk) == 1:
            return [], []  # left to the sweep
        settled = [await self._settle_chunk([result]) for result in chunk]
        return [one for finishable, _ in settled for one in finishable], [one for _, due in settled for one in due]

    def _settle(self, results: list[Result]) -> tuple[list[str], list[str]]:
        """Settle. Returns the batches that may be finished, and those whose plan is to be cut anew."""
        with self._database.transaction() as session:
            finishable = settle(session, results, self._policy, self._rng, self._models)
            return finishable, take_due(session, sorted({result.batch_id for result in results}))


def _size(result: Result) -> int:
    """What a result takes up: its answer, of which one character beyond the Latin ones makes four bytes of each."""
    return sys.getsizeof(result.outcome.body or "")
