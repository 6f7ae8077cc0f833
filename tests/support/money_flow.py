"""A batch whose money moves: claimed, answered, lost, cancelled or expired, with what the upstreams really bill."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import Ticket, claim
from routing_service.dispatch.finish import finish
from routing_service.dispatch.quarantine import ISOLATED
from routing_service.dispatch.settle import settle
from routing_service.dispatch.sweep import sweep
from routing_service.models import AttemptState, BatchState, EntryBasis
from routing_service.money import ledger
from routing_service.money.pricing import cost_nano, price_book
from routing_service.upstream.outcome import LOST, Outcome, RetryPolicy, Usage, broken, unsent
from tests.support.factories import make_settings
from tests.support.fakes import FakePublisher

SETTINGS = make_settings(dispatch={"max_attempts": 3, "backoff_base_s": 1e-6, "backoff_max_s": 1e-6, "claim_chunk": 4})
PRICES = price_book(SETTINGS)
POLICY = RetryPolicy.of(SETTINGS.dispatch)
MODELS = ("weak", "strong")

# By request: requests, settled sums and counters as they stand, against what they are made of.
_SUMS = """
select batch.total, batch.succeeded, batch.failed, batch.floor_nano, batch.state::text as state, budget.reserved_nano,
       count(*) filter (where request.state = 'succeeded') as answered,
       count(*) filter (where request.state in ('failed', 'cancelled', 'expired', 'unaffordable')) as unanswered,
       coalesce(sum(request.floor_nano) filter (where request.state in ('queued', 'scored')), 0) as floor,
       (select coalesce(sum(attempt.reserved_nano), 0) from attempts attempt where attempt.batch_id = batch.id
       and attempt.state = 'started')
           as held,
       budget.settled_nano + budget.overrun_nano as charged
from batches batch join budgets budget on budget.batch_id = batch.id join requests request
    on request.batch_id = batch.id
where batch.id = :id group by batch.id, budget.id
"""


@dataclass
class World:
    """A batch, two pumps, what they have in flight, and what the upstreams really bill."""

    database: Database
    batch_id: str
    pumps: list[lease.Lease]
    in_flight: list[tuple[int, Ticket]] = field(default_factory=list)
    billed: int = 0

    def claim(self, pump: int, slots: dict[str, int]) -> None:
        with self.database.transaction() as session:
            session.execute(text("update requests set not_before = null where not_before is not null"))
            # As if the operator corrected the bounds of a model each time that it was billed above them.
            session.execute(text("update attempts set bounds = '' where cost_nano > reserved_nano"))
            isolated = None if any(owner == pump for owner, _ in self.in_flight) else ISOLATED
            for limits in (isolated, None):
                got = claim(session, SETTINGS, PRICES, self.pumps[pump].pump_id, self.batch_id, slots, limits)
                if got.tickets:
                    break
        for model in MODELS:
            assert sum(t.model == model for t in got.tickets) <= slots[model]
        self.in_flight += [(pump, ticket) for ticket in got.tickets]

    def settle(self, kinds: list[str]) -> None:
        """Answer the calls that are longest in flight, all in one transaction."""
        done = [(self.in_flight.pop(0)[1], kind) for kind in kinds if self.in_flight]
        results = [t.result(self._outcome(kind, t)) for t, kind in done]
        with self.database.transaction() as session:
            settle(session, results, POLICY, random.Random(0))

    def _outcome(self, kind: str, ticket: Ticket) -> Outcome:
        if kind in ("usage", "above"):
            price = ticket.price
            usage = Usage(10, 1) if kind == "usage" else Usage(10, ticket.reserved_nano * 2_000_000 // price.output + 1)
            self.billed += cost_nano(price, usage.input, usage.output)
            return Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=usage)
        self.billed += ticket.reserved_nano if kind in ("no usage", "broken", "lost") else 0
        if kind == "no usage":
            return Outcome(AttemptState.SUCCEEDED, EntryBasis.ESTIMATED, status_code=200, body="{}")
        refused = Outcome(AttemptState.REFUSED, EntryBasis.UNBILLED, status_code=400, body="{}", error_code="http_400")
        return {"unsent": unsent("x"), "broken": broken("timeout", "x"), "lost": LOST}.get(kind, refused)

    def lose(self, pump: int) -> None:
        """The pump dies with its calls in flight; their results come too late. Another takes its place."""
        lease.close_lease(self.database, self.pumps[pump])
        sweep(self.database, SETTINGS, FakePublisher())
        mine = [ticket for owner, ticket in self.in_flight if owner == pump]
        self.billed += sum(ticket.reserved_nano for ticket in mine)
        self.in_flight = [(owner, ticket) for owner, ticket in self.in_flight if owner != pump]
        self.pumps[pump] = lease.open_lease(self.database, 60)
        late = [t.result(unsent("late")) for t in mine]
        with self.database.transaction() as session:
            settle(session, late, POLICY, random.Random(0))

    def end(self, column: str) -> None:
        change = {
            "cancel": "state = 'cancelling', cancelling_at = now()",
            "expire": "expires_at = now() - interval '1 second'",
        }
        with self.database.transaction() as session:
            statement = f"update batches set {change[column]} where id = :id and state = 'in_progress'"
            session.execute(text(statement), {"id": self.batch_id})
        finish(self.database, self.batch_id)

    def check(self) -> str:
        with self.database.transaction() as session:
            row = session.execute(text(_SUMS), {"id": self.batch_id}).one()
            assert ledger.verify(session) == []
        assert (row.succeeded, row.failed) == (row.answered, row.unanswered)
        assert row.floor_nano == row.floor
        assert row.reserved_nano == row.held == sum(ticket.reserved_nano for _, ticket in self.in_flight)
        assert self.billed <= row.charged
        return str(row.state)

    def drain(self) -> str:
        """Let everything come to its end, without faults."""
        for _ in range(200):
            self.claim(0, {"weak": 4, "strong": 4})
            self.settle(["usage"] * len(self.in_flight))
            finish(self.database, self.batch_id)
            state = self.check()
            if BatchState(state) not in (BatchState.IN_PROGRESS, BatchState.FINALIZING, BatchState.CANCELLING):
                return state
            with self.database.transaction() as session:
                if session.scalar(text("select paused from batches where id = :id"), {"id": self.batch_id}):
                    return "paused"
        raise AssertionError("the batch does not end")


SLOTS = st.fixed_dictionaries({"weak": st.integers(0, 4), "strong": st.integers(0, 4)})
KINDS = st.sampled_from(["usage", "usage", "no usage", "above", "unsent", "refused", "broken", "lost"])
