"""The dispatch pump: claims bites, calls upstreams, settles what comes back, over all runnable batches.

One pump runs in one process's event loop for a stretch of `claim_s` seconds, then stops claiming, rings the doorbell
for the next stretch and finishes what is in flight. Database work runs in threads; no transaction is held across a
call. Its lease is a row that a task of its own renews; before every send the pump checks that it still holds it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import orjson

from routing_service.batches import lease
from routing_service.batches.claim import Claim, Ticket, claim
from routing_service.batches.runnable import Runnable, runnable_batches
from routing_service.batches.settle import Result
from routing_service.batches.settler import Settler
from routing_service.db import Database
from routing_service.errors import LeaseLostError
from routing_service.events import Publisher
from routing_service.lines import upstream_body
from routing_service.pricing import PriceBook
from routing_service.settings import Settings
from routing_service.upstream import AnswerMemory, Upstreams

log = logging.getLogger(__name__)
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
        self._by_model: Counter[str] = Counter()
        self._by_batch: Counter[str] = Counter()
        self._calls: set[asyncio.Task[None]] = set()
        self._left_out: set[str] = set()  # batches that this stretch could not claim from
        self._arrived = asyncio.Event()  # a call came back
        self._memory = AnswerMemory(settings.dispatch.max_held_response_bytes)
        self._lease: lease.Lease
        self._settler: Settler

    async def run(self) -> None:
        """Dispatch until there is nothing to do, the stretch is over, or the process is to stop."""
        settings = self._settings.dispatch
        self._lease = await asyncio.to_thread(lease.open_lease, self._database, settings.lease_s)
        self._settler = Settler(self._database, settings, self._publisher, self._lease, self._memory, self._arrived)
        renewing = asyncio.create_task(lease.keep_renewing(self._database, self._lease, settings.renew_s))
        settling = asyncio.create_task(self._settler.run())
        try:
            more = await self._claim_for(settings.claim_s, settling)
            if more:
                await asyncio.to_thread(self._publisher.dispatch)
            if self._calls:
                await asyncio.wait(self._calls)
        except LeaseLostError as error:
            log.warning("%s: what it had in flight is left to the sweep", error)
        finally:
            try:
                await self._stop_calls()
                self._settler.close()
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
            self._lease.check()
            found = await lease.steadily(self._lease, lambda: runnable_batches(self._database))
            batches = [batch for batch in found if batch.batch_id not in self._left_out]
            claimed = await self._claim_round(batches)
            if claimed:
                idle_since = None
                await asyncio.sleep(PACE_S)
                continue
            now = time.monotonic()
            if not self._calls and not self._settler.pending and not any(b.due for b in batches):
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
                got = await lease.steadily(self._lease, lambda b=batch, s=slots: self._claim_bite(b.batch_id, s))  # type: ignore[misc]
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
        with self._database.transaction() as session:
            return claim(session, self._settings, self._prices, self._lease.pump_id, batch_id, slots)

    def _free_slots(self) -> dict[str, int]:
        """Calls that may be added now, by model: its share of the model's limit, within the pump's own limits."""
        room = 0 if self._memory.full else self._settings.dispatch.max_in_flight - len(self._calls)
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
        try:
            self._lease.check()
            body = orjson.dumps(upstream_body(orjson.loads(ticket.body), self._settings.models[ticket.model]))
            outcome = await self._upstreams.chat(ticket.model, body, self._memory, ticket.call_id)
            price = ticket.price
            self._settler.add(Result(ticket.batch_id, ticket.line, ticket.attempt_id, ticket.number, price, outcome))
        except LeaseLostError:
            return  # never sent; the sweep closes the attempt
        finally:
            self._by_model[ticket.model] -= 1
            self._by_batch[ticket.batch_id] -= 1
            self._arrived.set()

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
