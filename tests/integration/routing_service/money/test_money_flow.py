"""The money under any course of events: whatever is claimed, answered, lost, cancelled or expired, the sums hold."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
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
from routing_service.settings import Settings
from routing_service.upstream.outcome import LOST, Outcome, RetryPolicy, Usage, broken, unsent
from tests.support.factories import make_settings
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch

SETTINGS = make_settings(dispatch={"max_attempts": 3, "backoff_base_s": 1e-6, "backoff_max_s": 1e-6, "claim_chunk": 4})
PRICES = price_book(SETTINGS)
POLICY = RetryPolicy.of(SETTINGS.dispatch)
MODELS = ("weak", "strong")

# By request: requests, settled sums and counters as they stand, against what they are made of.
_SUMS = """
select b.total, b.succeeded, b.failed, b.floor_nano, b.state::text as state, g.reserved_nano,
       count(*) filter (where q.state = 'succeeded') as answered,
       count(*) filter (where q.state in ('failed', 'cancelled', 'expired', 'unaffordable')) as unanswered,
       coalesce(sum(q.floor_nano) filter (where q.state in ('queued', 'scored')), 0) as floor,
       (select coalesce(sum(a.reserved_nano), 0) from attempts a where a.batch_id = b.id and a.state = 'started')
           as held,
       g.settled_nano + g.overrun_nano as charged
from batches b join budgets g on g.batch_id = b.id join requests q on q.batch_id = b.id
where b.id = :id group by b.id, g.id
"""


@dataclass
class World:
    """A batch, two pumps, what they have in flight, and what the upstreams really bill."""

    database: Database
    batch_id: str
    pumps: list[lease.Lease]
    flying: list[tuple[int, Ticket]] = field(default_factory=list)
    billed: int = 0

    def claim(self, pump: int, slots: dict[str, int]) -> None:
        with self.database.transaction() as session:
            session.execute(text("update requests set not_before = null where not_before is not null"))
            # As if the operator corrected the bounds of a model each time that it was billed above them.
            session.execute(text("update attempts set bounds = '' where cost_nano > reserved_nano"))
            alone = None if any(owner == pump for owner, _ in self.flying) else ISOLATED
            for limits in (alone, None):
                got = claim(session, SETTINGS, PRICES, self.pumps[pump].pump_id, self.batch_id, slots, limits)
                if got.tickets:
                    break
        for model in MODELS:
            assert sum(t.model == model for t in got.tickets) <= slots[model]
        self.flying += [(pump, ticket) for ticket in got.tickets]

    def settle(self, kinds: list[str]) -> None:
        """Answer the calls that are longest in flight, all in one transaction."""
        done = [(self.flying.pop(0)[1], kind) for kind in kinds if self.flying]
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
        mine = [ticket for owner, ticket in self.flying if owner == pump]
        self.billed += sum(ticket.reserved_nano for ticket in mine)
        self.flying = [(owner, ticket) for owner, ticket in self.flying if owner != pump]
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
        assert row.reserved_nano == row.held == sum(ticket.reserved_nano for _, ticket in self.flying)
        assert self.billed <= row.charged
        return str(row.state)

    def drain(self) -> str:
        """Let everything come to its end, without faults."""
        for _ in range(200):
            self.claim(0, {"weak": 4, "strong": 4})
            self.settle(["usage"] * len(self.flying))
            finish(self.database, self.batch_id)
            state = self.check()
            if BatchState(state) not in (BatchState.IN_PROGRESS, BatchState.FINALIZING, BatchState.CANCELLING):
                return state
            with self.database.transaction() as session:
                if session.scalar(text("select paused from batches where id = :id"), {"id": self.batch_id}):
                    return "paused"
        raise AssertionError("the batch does not end")


PLANNED = st.builds(
    Planned,
    ratio=st.sampled_from([-1.0, 0.5, 1.0, 2.0, float("inf")]),
    prompt=st.text("ab", max_size=20),
    pinned=st.sampled_from([None, None, None, "weak", "strong"]),
    max_cost_nano=st.sampled_from([None, None, None, 10, 50_000, 3_000_000]),
    output_cap=st.sampled_from([1, 64, None]),
)
SLOTS = st.fixed_dictionaries({"weak": st.integers(0, 4), "strong": st.integers(0, 4)})
KINDS = st.sampled_from(["usage", "usage", "no usage", "above", "unsent", "refused", "broken", "lost"])
STEPS = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 1), SLOTS),
    st.tuples(st.just("claim"), st.integers(0, 1), SLOTS),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("end"), st.sampled_from(["cancel", "expire"])),
)


@examples(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(PLANNED, min_size=1, max_size=10),
    steps=st.lists(STEPS, max_size=10),
    budget=st.sampled_from([0, 50_000, 2_000_000, 20_000_000, 200_000_000]),
    stops=st.booleans(),
    falls_back=st.booleans(),
)
@example(  # above its own cap at the strong model, and the weak one has no free slot
    requests=[Planned(ratio=2.0, max_cost_nano=50_000, output_cap=1)],
    steps=[("claim", 0, {"weak": 0, "strong": 1})],
    budget=2_000_000,
    stops=True,
    falls_back=False,
)
@example(  # both models fail it, and then there is no money for a third try
    requests=[Planned(ratio=0.5, output_cap=1), Planned(ratio=0.5)],
    steps=[("claim", 0, {"weak": 2, "strong": 0}), ("settle", ["broken"])] * 4,
    budget=20_000_000,
    stops=True,
    falls_back=True,
)
def test_the_sums_hold_whatever_happens(
    database: Database,
    requests: list[Planned],
    steps: list[tuple[object, ...]],
    budget: int,
    stops: bool,
    falls_back: bool,
) -> None:
    with database.transaction() as session:
        options: dict[str, object] = {"on_budget": "stop" if stops else "wait"}
        options |= {"on_failure": "fallback"} if falls_back else {}
        batch_id = make_planned_batch(session, requests, budget_nano=budget, shadow_price=1.0, options=options)
    world = World(database, batch_id, [lease.open_lease(database, 60) for _ in range(2)])
    for name, *arguments in steps:
        getattr(world, str(name))(*arguments)
        world.check()
    assert world.drain() in ("completed", "cancelled", "expired", "paused")
    assert not world.flying
    for held in world.pumps:
        lease.close_lease(database, held)


def test_a_model_billed_above_its_bounds_stops_until_they_are_corrected(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [Planned(ratio=2.0, prompt="a"), Planned(ratio=2.0, prompt="b"), Planned(ratio=0.5, prompt="c")]
    with database.transaction() as session:
        batch_id = make_planned_batch(session, requests, shadow_price=1.0)
    settings = make_settings(dispatch={"claim_chunk": 1})
    held = lease.open_lease(database, 30)

    def take(settings: Settings) -> list[Ticket]:
        with database.transaction() as session:
            return claim(session, settings, PRICES, held.pump_id, batch_id, {"weak": 9, "strong": 9}).tickets

    def answer(ticket: Ticket, output: int) -> None:
        outcome = Outcome(AttemptState.SUCCEEDED, EntryBasis.USAGE, status_code=200, body="{}", usage=Usage(10, output))
        with database.transaction() as session:
            settle(session, [ticket.result(outcome)], POLICY, random.Random(0))

    def paused() -> tuple[Any, ...]:
        with database.transaction() as session:
            return tuple(session.execute(text("select paused, paused_reason from batches")).one())

    cheap, dear = sorted(take(settings), key=lambda ticket: ticket.reserved_nano)
    answer(dear, dear.reserved_nano * 1_000_000 // dear.price.output + 1)
    assert "model strong was billed above its bounds" in caplog.text
    assert take(settings) == []
    assert paused() == (None, None)  # something of it is in flight
    answer(cheap, 1)
    assert take(settings) == []
    sweep(database, settings, FakePublisher())
    cause, reason = paused()
    assert (cause, "'strong'" in str(reason)) == ("model_stopped", True)
    corrected = settings.models["strong"].model_copy(update={"overhead_tokens": 500})
    settings = settings.model_copy(update={"models": settings.models | {"strong": corrected}})
    sweep(database, settings, FakePublisher())
    assert [ticket.model for ticket in take(settings)] == ["strong"]
