"""The dispatch pump: claims requests, calls upstreams, settles what comes back, over all runnable batches.

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

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import Claim, Ticket, claim
from routing_service.dispatch.fairness import FairScheduler, Runnable, runnable_batches
from routing_service.dispatch.quarantine import ISOLATED, QuarantineLimits
from routing_service.dispatch.settlement_loop import SettlementLoop
from routing_service.errors import LeaseLostError
from routing_service.events import DispatchDue, FinishDue, Publisher
from routing_service.money.pricing import PriceBook
from routing_service.openai_format.line import upstream_body
from routing_service.settings import Settings
from routing_service.upstream.client import AnswerMemory, Upstreams
from routing_service.upstream.limiter import Limiter
from routing_service.upstream.outcome import STOPPED

log = logging.getLogger(__name__)
POLL_S = 0.2  # how long a blocked or idle pump waits before it looks again
PACE_S = 0.02  # between rounds, so that a claim chunk is worth its transaction
LIST_S, ALL_SLOTS = 0.1, 256  # how old a list may be that still has something to claim: the less, the fewer slots


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
        limiter: Limiter | None = None,
    ) -> None:
        self._database, self._settings, self._prices = database, settings, prices
        self._upstreams, self._publisher, self._stopping = upstreams, publisher, stopping
        self._limiter = limiter or Limiter(settings.models)
        self._by_model: Counter[str] = Counter()
        self._scheduler = FairScheduler()
        self._is_isolating = False  # a request that may kill its worker: nothing else is claimed
        self._calls: dict[asyncio.Task[None], Ticket] = {}
        self._left_out: set[str] = set()  # batches that this stretch could not claim from
        self._empty: dict[str, tuple[float, set[str]]] = {}  # by batch: until when, and for which models
        self._arrived = asyncio.Event()  # a call came back
        self._memory = AnswerMemory(settings.dispatch.max_held_response_bytes)
        self._lease: lease.Lease
        self._settlement: SettlementLoop

    async def run(self) -> None:
        """Dispatch until there is nothing to do, the stretch is over, or the process is to stop."""
        settings = self._settings.dispatch
        self._lease = await asyncio.to_thread(lease.open_lease, self._database, settings.lease_s)
        self._settlement = SettlementLoop(
            self._database, settings, self._settings.models, self._publisher, self._lease, self._memory, self._arrived
        )
        renewing = asyncio.create_task(lease.keep_renewing(self._database, self._lease, settings.renew_s))
        settling = asyncio.create_task(self._settlement.run())
        try:
            more = await self._claim_for(settings.claim_s, settling)
            if more:
                await asyncio.to_thread(self._publisher.publish, DispatchDue())
            await self._wait_for_calls()
        except LeaseLostError as error:
            log.warning("%s: what it had in flight is left to the sweep", error)
        finally:
            try:
                await self._stop_calls()
                self._settlement.close()
                await settling
            finally:  # whatever happened: a lease that went on being renewed would keep the sweep out
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing
                await asyncio.to_thread(lease.close_lease, self._database, self._lease)

    async def _claim_for(self, seconds: float, settling: asyncio.Task[None]) -> bool:
        """Claim for a while, never without a settlement loop. Returns whether work may be left for the next stretch."""
        until = time.monotonic() + seconds
        idle_since: float | None = None
        listed, listed_at, claimed = list[Runnable](), 0.0, 0
        fresh_s = LIST_S * min(1.0, self._settings.dispatch.max_in_flight / ALL_SLOTS)
        while (now := time.monotonic()) < until and not self._stopping() and not settling.done():
            self._lease.check()
            if not claimed or now - listed_at > fresh_s:
                listed = await lease.run_while_leased(self._lease, lambda: runnable_batches(self._database))
                listed_at = now
            batches = [batch for batch in listed if batch.batch_id not in self._left_out]
            claimed = await self._claim_round(batches)
            if claimed:
                idle_since = None
                await self._pace(claimed)
                continue
            now = time.monotonic()
            if not self._calls and not self._settlement.pending and not any(b.due for b in batches):
                # What was listed may be older than the last settlement: an empty list counts when it is seen again.
                idle_since = idle_since or now
                if now - idle_since >= (self._settings.dispatch.idle_s if batches else POLL_S):
                    return False
            await self._wait_for_room()
        return True

    async def _claim_round(self, batches: list[Runnable]) -> int:
        """As many chunks as there are batches, each of the batch whose turn it is. Isolated requests come before."""
        is_empty = not self._calls and not self._settlement.pending
        if self._is_isolating and not is_empty:
            return 0
        claimed = 0
        waiting = [batch for batch in batches if batch.due]
        most = min(self._room(), self._settings.dispatch.claim_chunk) if waiting else 0
        await self._limiter.refresh(self._lease.share, self._by_model, most)
        self._is_isolating = is_empty and await self._claim_isolated(waiting)
        if self._is_isolating:
            return 1
        for _ in range(len(waiting)):
            slots = self._free_slots()
            free = {model for model, number in slots.items() if number}
            waiting = [batch for batch in waiting if not free <= self._nothing_for(batch.batch_id)]
            if not waiting:
                break
            batch = self._scheduler.next(waiting)
            quarantined = sum(ticket.losses > 0 for ticket in self._calls.values())
            got = await self._claim(batch, slots, QuarantineLimits.beside(quarantined))
            if got.tickets or got.answered:
                claimed += len(got.tickets) + got.answered
                self._scheduler.served(batch)
                continue
            waiting.remove(batch)
            if not got.waiting:
                self._empty[batch.batch_id] = time.monotonic() + POLL_S, free
        return claimed

    async def _claim_isolated(self, batches: list[Runnable]) -> bool:
        """Send one request that may kill its worker, if there is one."""
        for batch in (batch for batch in batches if batch.has_isolated):
            if (await self._claim(batch, self._free_slots(), ISOLATED)).tickets:
                return True
        return False

    async def _claim(self, batch: Runnable, slots: dict[str, int], quarantine: QuarantineLimits) -> Claim:
        """Claim a chunk of a batch's requests and send it. What goes wrong with one batch stays with it."""
        try:
            got = await lease.run_while_leased(
                self._lease, lambda: self._claim_chunk(batch.batch_id, slots, quarantine)
            )
        except LeaseLostError:
            raise
        except Exception:
            log.exception("batch %s cannot be dispatched and is left out for now", batch.batch_id)
            self._left_out.add(batch.batch_id)
            return Claim()
        for ticket in got.tickets:
            self._send(batch, ticket)
        if got.may_finish and not got.tickets:
            await asyncio.to_thread(self._publisher.publish, FinishDue(batch.batch_id))
        return got

    def _nothing_for(self, batch_id: str) -> set[str]:
        """Models that a moment ago no request of the batch was for: where the others are full, it is not locked again
        whenever a call comes back."""
        until, models = self._empty.get(batch_id, (0.0, set[str]()))
        return models if time.monotonic() < until else set()

    def _claim_chunk(self, batch_id: str, slots: dict[str, int], quarantine: QuarantineLimits) -> Claim:
        with self._database.transaction() as session:
            return claim(session, self._settings, self._prices, self._lease.pump_id, batch_id, slots, quarantine)

    def _room(self) -> int:
        """Calls that may be added within the pump's own limits."""
        return 0 if self._memory.full else self._settings.dispatch.max_in_flight - len(self._calls)

    def _free_slots(self) -> dict[str, int]:
        """The same by model: what its limits leave to this pump."""
        room, share = self._room(), self._lease.share
        return {
            name: max(0, min(room, self._limiter.free(name, share, self._by_model[name])))
            for name in self._settings.models
        }

    def _send(self, batch: Runnable, ticket: Ticket) -> None:
        self._by_model[ticket.model] += 1
        self._scheduler.sent(batch)
        tokens = self._limiter.sent(ticket.model, len(ticket.body), self._by_model[ticket.model])
        task = asyncio.create_task(self._call(batch, ticket, tokens))
        self._calls[task] = ticket
        task.add_done_callback(self._calls.pop)

    async def _call(self, batch: Runnable, ticket: Ticket, tokens: float) -> None:
        """`tokens`: what it is expected to take, for the limiter."""
        try:
            self._lease.check()
            body = orjson.dumps(upstream_body(orjson.loads(ticket.body), self._settings.models[ticket.model]))
            started = time.monotonic()
            outcome = await self._upstreams.chat(ticket.model, body, self._memory, ticket.call_id)
            self._limiter.ended(ticket.model, outcome, tokens, time.monotonic() - started)
            self._settlement.add(ticket.result(outcome))
        except LeaseLostError:
            return  # never sent; the sweep closes the attempt
        finally:
            self._by_model[ticket.model] -= 1
            self._scheduler.ended(batch)
            self._arrived.set()

    async def _pace(self, claimed: int) -> None:
        """After a whole chunk only let its calls begin; else wait a moment, and another unless a quarter of the calls
        in flight has come back by then."""
        if claimed >= self._settings.dispatch.claim_chunk:
            await asyncio.sleep(0)
            return
        enough = 0.75 * len(self._calls)
        await asyncio.sleep(PACE_S)
        if len(self._calls) > enough:
            await asyncio.sleep(PACE_S)

    async def _wait_for_room(self) -> None:
        self._arrived.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), POLL_S)

    async def _wait_for_calls(self) -> None:
        """Until all have come back. Once the process is to stop, for the grace period; then they are broken off."""
        until: float | None = None
        while self._calls:
            until = until or (time.monotonic() + self._settings.dispatch.grace_s if self._stopping() else None)
            if until and time.monotonic() >= until:
                break
            await asyncio.wait(self._calls, timeout=POLL_S)
        for task, ticket in list(self._calls.items()):
            if not task.done() and task.cancel():
                self._settlement.add(ticket.result(STOPPED))

    async def _stop_calls(self) -> None:
        """Only after a lost lease or an error: what is in flight is no longer ours to wait for."""
        for task in (calls := list(self._calls)):
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
