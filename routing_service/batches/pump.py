"""The dispatch pump: claims bites, calls upstreams, settles what comes back, over all runnable batches.

One pump runs in one process's event loop for a stretch of `claim_s` seconds, then stops claiming, rings the doorbell
for the next stretch and finishes what is in flight. Database work runs in threads; no transaction is held across a
call. Its lease is a row that a task of its own renews; before every send the pump checks that it still holds it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import orjson
from sqlalchemy.exc import OperationalError

from routing_service.batches import lease
from routing_service.batches.claim import Claim, Ticket, claim
from routing_service.batches.replan import take_due
from routing_service.batches.runnable import Runnable, runnable_batches
from routing_service.batches.settle import Result, settle
from routing_service.db import Database
from routing_service.errors import LeaseLostError
from routing_service.events import Publisher
from routing_service.lines import upstream_body
from routing_service.outcomes import RetryPolicy
from routing_service.pricing import PriceBook
from routing_service.settings import Settings
from routing_service.upstream import Upstreams

log = logging.getLogger(__name__)
T = TypeVar("T")
POLL_S = 0.2  # how long a blocked or idle pump waits before it looks again
PACE_S = 0.02  # between rounds, so that a bite is worth its transaction


class Pump:
    """One stretch of dispatching. Make it in the event loop that runs it."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        prices: PriceBook,
        upstreams: Upstreams,
        publisher: Publisher,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database, self._settings, self._prices = database, settings, prices
        self._upstreams, self._publisher, self._stopping = upstreams, publisher, stopping
        self._policy = RetryPolicy.of(settings.dispatch)
        self._rng = random.Random()  # noqa: S311
        self._by_model: Counter[str] = Counter()
        self._by_batch: Counter[str] = Counter()
        self._calls: set[asyncio.Task[None]] = set()
        self._results: list[Result] = []
        self._left_out: set[str] = set()  # batches that this stretch could not claim from
        self._arrived = asyncio.Event()  # a call came back
        self._full = asyncio.Event()  # enough results for a settlement of their own
        self._claiming = True
        self._lease: lease.Lease | None = None

    async def run(self) -> None:
        """Dispatch until there is nothing to do, the stretch is over, or the process is to stop."""
        settings = self._settings.dispatch
        self._lease = await asyncio.to_thread(lease.open_lease, self._database, settings.lease_s)
        renewing = asyncio.create_task(self._keep_lease())
        settling = asyncio.create_task(self._settle_as_they_come())
        try:
            more = await self._claim_for(settings.claim_s, settling)
            if more:
                await asyncio.to_thread(self._publisher.dispatch)
            if self._calls:
                await asyncio.wait(self._calls)
        except LeaseLostError as error:
            log.warning("%s: what it had in flight is left to the sweep", error)
        finally:
            self._claiming = False
            try:
                await self._stop_calls()
                self._full.set()
                await settling
            finally:  # whatever happened: a lease that went on being renewed would keep the sweep out
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing
                await asyncio.to_thread(lease.close_lease, self._database, self._lease)

    async def _claim_for(self, seconds: float, settling: asyncio.Task[None]) -> bool:
        """Claim for a while, never without a settler. Returns whether work may be left for the next stretch."""
        until = time.monotonic() + seconds
        idle_since: float | None = None
        while time.monotonic() < until and not self._stopping() and not settling.done():
            assert self._lease is not None
            self._lease.check()
            found = await self._steadily(lambda: runnable_batches(self._database))
            batches = [batch for batch in found if batch.batch_id not in self._left_out]
            claimed = await self._claim_round(batches)
            if claimed:
                idle_since = None
                await asyncio.sleep(PACE_S)
                continue
            now = time.monotonic()
            if not self._calls and not self._results and not any(b.due for b in batches):
                # What was listed may be older than the last settlement: an empty list counts when it is seen again.
                idle_since = idle_since or now
                if now - idle_since >= (self._settings.dispatch.idle_s if batches else POLL_S):
                    return False
            await self._wait_for_room()
        return True

    async def _claim_round(self, batches: list[Runnable]) -> int:
        """A bite of each runnable batch, highest priority first, then whoever has least in flight."""
        claimed = 0
        for batch in sorted(batches, key=lambda b: (-b.priority, self._by_batch[b.batch_id], b.created_at)):
            slots = self._free_slots()
            if not batch.due or not any(slots.values()):
                continue
            try:
                got = await self._steadily(lambda b=batch, s=slots: self._claim_bite(b.batch_id, s))  # type: ignore[misc]
            except LeaseLostError:
                raise
            except Exception:  # of one batch: the calls of all others go on
                log.exception("batch %s cannot be dispatched and is left out for now", batch.batch_id)
                self._left_out.add(batch.batch_id)
                continue
            for ticket in got.tickets:
                self._send(ticket)
            claimed += len(got.tickets)
            if got.closed and not got.tickets:
                await asyncio.to_thread(self._publisher.finish, batch.batch_id)
        return claimed

    def _claim_bite(self, batch_id: str, slots: dict[str, int]) -> Claim:
        assert self._lease is not None
        with self._database.transaction() as session:
            return claim(session, self._settings, self._prices, self._lease.pump_id, batch_id, slots)

    def _free_slots(self) -> dict[str, int]:
        """Calls that may be added now, by model: its share of the model's limit, within the pump's own limit."""
        assert self._lease is not None
        room = self._settings.dispatch.max_in_flight - len(self._calls)
        share = max(1, self._lease.pumps)
        return {
            name: max(0, min(room, -(-model.max_concurrency // share) - self._by_model[name]))
            for name, model in self._settings.models.items()
        }

    def _send(self, ticket: Ticket) -> None:
        self._by_model[ticket.model] += 1
        self._by_batch[ticket.batch_id] += 1
        task = asyncio.create_task(self._call(ticket))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, ticket: Ticket) -> None:
        assert self._lease is not None
        try:
            self._lease.check()
            body = orjson.dumps(upstream_body(orjson.loads(ticket.body), self._settings.models[ticket.model]))
            outcome = await self._upstreams.chat(ticket.model, body)
            price = ticket.price
            self._results.append(Result(ticket.batch_id, ticket.line, ticket.attempt_id, ticket.number, price, outcome))
        except LeaseLostError:
            return  # never sent; the sweep closes the attempt
        finally:
            self._by_model[ticket.model] -= 1
            self._by_batch[ticket.batch_id] -= 1
            self._arrived.set()
            if len(self._results) >= self._settings.dispatch.settle_results:
                self._full.set()

    async def _settle_as_they_come(self) -> None:
        """Settle every `settle_interval_ms`, or sooner when enough has come; once more at the end."""
        interval_s = self._settings.dispatch.settle_interval_ms / 1000
        while self._claiming or self._results or self._calls:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), interval_s)
            self._full.clear()
            while self._results:
                chunk = self._results[: self._settings.dispatch.settle_results]
                try:
                    ripe, moved = await self._settle_chunk(chunk)
                except LeaseLostError:
                    self._results.clear()
                    return
                del self._results[: len(chunk)]
                self._arrived.set()
                for batch_id in ripe:
                    await asyncio.to_thread(self._publisher.finish, batch_id)
                for batch_id in moved:
                    await asyncio.to_thread(self._publisher.plan, batch_id)

    async def _settle_chunk(self, chunk: list[Result]) -> tuple[list[str], list[str]]:
        """Settle together; where the database refuses, one by one, so that one result cannot burn the others."""
        try:
            return await self._steadily(lambda: self._settle(chunk))
        except LeaseLostError:
            raise
        except Exception:
            log.exception("%d results could not be settled, the first of attempt %d", len(chunk), chunk[0].attempt_id)
        if len(chunk) == 1:
            return [], []  # left to the sweep
        ends = [await self._settle_chunk([result]) for result in chunk]
        return [b for ripe, _ in ends for b in ripe], [b for _, moved in ends for b in moved]

    def _settle(self, results: list[Result]) -> tuple[list[str], list[str]]:
        """Settle. Returns the batches that may be finished, and those whose plan is to be cut anew."""
        with self._database.transaction() as session:
            ripe = settle(session, results, self._policy, self._rng)
            return ripe, take_due(session, sorted({result.batch_id for result in results}))

    async def _keep_lease(self) -> None:
        assert self._lease is not None
        while True:
            await asyncio.sleep(self._settings.dispatch.renew_s)
            try:
                await asyncio.to_thread(lease.renew_lease, self._database, self._lease)
            except OperationalError as error:
                log.warning("the lease could not be renewed: %s", error.__class__.__name__)

    async def _steadily(self, work: Callable[[], T]) -> T:
        """Run database work in a thread; while the database is away, try again for as long as the lease holds."""
        assert self._lease is not None
        while True:
            try:
                return await asyncio.to_thread(work)
            except OperationalError as error:
                log.warning("the database is away, trying again: %s", error.__class__.__name__)
                await asyncio.sleep(1)
                self._lease.check()

    async def _wait_for_room(self) -> None:
        self._arrived.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), POLL_S)

    async def _stop_calls(self) -> None:
        """Only after a lost lease or an error: what is in flight is no longer ours to wait for."""
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
