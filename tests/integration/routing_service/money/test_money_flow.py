"""The money under any course of events: whatever is claimed, answered, lost, cancelled or expired, the sums hold."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import Ticket, claim
from routing_service.dispatch.settle import settle
from routing_service.dispatch.sweep import sweep
from routing_service.models import AttemptState, EntryBasis
from routing_service.settings import Settings
from routing_service.upstream.outcome import Outcome, Usage
from tests.support.examples import examples
from tests.support.factories import make_settings
from tests.support.fakes import FakePublisher
from tests.support.money_flow import KINDS, POLICY, PRICES, SLOTS, World
from tests.support.planned import Planned, make_planned_batch

PLANNED = st.builds(
    Planned,
    ratio=st.sampled_from([-1.0, 0.5, 1.0, 2.0, float("inf")]),
    prompt=st.text("ab", max_size=20),
    pinned=st.sampled_from([None, None, None, "weak", "strong"]),
    max_cost_nano=st.sampled_from([None, None, None, 10, 50_000, 3_000_000]),
    output_cap=st.sampled_from([1, 64, None]),
)
STEPS = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 1), SLOTS),
    st.tuples(st.just("claim"), st.integers(0, 1), SLOTS),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("settle"), st.lists(KINDS, min_size=1, max_size=5)),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("end"), st.sampled_from(["cancel", "expire"])),
)


@examples(50)
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
    assert not world.in_flight
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
