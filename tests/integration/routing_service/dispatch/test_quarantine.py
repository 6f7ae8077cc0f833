"""A poison request, which kills its worker: it fails after three deaths, and nothing fails with it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease, quarantine
from routing_service.dispatch.claim import Ticket, claim
from routing_service.dispatch.quarantine import ISOLATED, QuarantineLimits
from routing_service.dispatch.settle import settle
from routing_service.dispatch.sweep import sweep
from routing_service.models import AttemptState, EntryBasis
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.upstream.outcome import Outcome, RetryPolicy, Usage
from tests.support.examples import examples
from tests.support.factories import make_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch

SETTINGS = make_settings(dispatch={"claim_chunk": 4, "backoff_base_s": 1e-6, "backoff_max_s": 1e-6, "max_attempts": 1})
PRICES = price_book(SETTINGS)
SLOTS = {"weak": 4, "strong": 4}
FINE = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=Usage(3, 2))


@dataclass
class DyingPump:
    """Claims as a pump does, a few claim chunks at a time; dies of poison with all that it has in flight."""

    database: Database
    batch_id: str
    poison: set[int]
    in_flight: list[Ticket] = field(default_factory=list)
    deaths: int = 0

    def __post_init__(self) -> None:
        self.held = lease.open_lease(self.database, 600)

    def send_round(self, chunks: int) -> int:
        """One round. Returns how many it had in flight."""
        self.in_flight = self._claim(ISOLATED)
        for _ in range(0 if self.in_flight else chunks):
            limits = QuarantineLimits.beside(sum(ticket.losses > 0 for ticket in self.in_flight))
            self.in_flight += self._claim(limits)
        if any(ticket.line in self.poison for ticket in self.in_flight):
            self.deaths += 1
            lease.close_lease(self.database, self.held)
            sweep(self.database, SETTINGS, FakePublisher())
            self.held = lease.open_lease(self.database, 600)
        else:
            results = [t.result(FINE) for t in self.in_flight]
            with self.database.transaction() as session:
                settle(session, results, RetryPolicy.of(SETTINGS.dispatch), random.Random(0))
        return len(self.in_flight)

    def _claim(self, limits: QuarantineLimits) -> list[Ticket]:
        with self.database.transaction() as session:
            session.execute(text("update requests set not_before = null"))
            return claim(session, SETTINGS, PRICES, self.held.pump_id, self.batch_id, SLOTS, limits).tickets


def plan(database: Database, lines: int) -> str:
    with database.transaction() as session:
        requests = [Planned(ratio=0.5 + n / 100, prompt=f"Prompt {n}") for n in range(lines)]
        return make_planned_batch(session, requests, shadow_price=0.6)


@examples(12)
@given(
    lines=st.integers(1, 20),
    poison=st.sets(st.integers(1, 20), max_size=4),
    rounds=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4)), max_size=12),
)
def test_what_kills_its_worker_fails_after_three_deaths_and_nothing_else_does(
    database: Database, lines: int, poison: set[int], rounds: list[tuple[int, int]]
) -> None:
    poison = {line for line in poison if line <= lines}
    batch_id = plan(database, lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quarantine, "MOST_QUARANTINED", 3)
        pumps = [DyingPump(database, batch_id, poison) for _ in range(2)]
        for which, chunks in rounds:
            pumps[which].send_round(chunks)
        while sum(pump.send_round(4) for pump in pumps):
            pass
    with database.transaction() as session:
        query = text(
            "select line from requests where batch_id = :id and state = 'failed' and error_code = 'worker_lost'"
        )
        assert set(session.scalars(query, {"id": batch_id})) == poison
        query = text("select count(*) from requests where batch_id = :id and state = 'succeeded'")
        assert session.scalar(query, {"id": batch_id}) == lines - len(poison)
        lost = text(
            "select count(*) from attempts where batch_id = :id and line = any(:lines) and error_code = 'worker_lost'"
        )
        assert session.scalar(lost, {"id": batch_id, "lines": list(poison)}) == 3 * len(poison)
        assert ledger.verify(session) == []
    assert sum(pump.deaths for pump in pumps) <= 3 * len(poison)


def test_a_death_in_a_crowd_does_not_isolate_the_crowd(database: Database) -> None:
    """The first to be claimed kills a pump that has 25 requests in flight: it takes few rounds to end them all."""
    batch_id = plan(database, 25)
    pump = DyingPump(database, batch_id, {25})
    rounds = 1
    while pump.send_round(7):
        rounds += 1
    assert pump.deaths == 3
    assert rounds <= 3 + quarantine.MOST_QUARANTINED + 4


def test_requests_that_were_never_lost_go_on_beside_quarantined_ones(database: Database) -> None:
    batch_id = plan(database, 60)
    with database.transaction() as session:
        session.execute(text("update requests set losses = 1 where line > 20"))
    pump = DyingPump(database, batch_id, set())
    pump.send_round(20)
    assert sum(ticket.losses == 1 for ticket in pump.in_flight) == quarantine.MOST_QUARANTINED
    assert sum(ticket.losses == 0 for ticket in pump.in_flight) == 20
