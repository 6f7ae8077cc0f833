"""The money of a limited key under any course of events: two batches, changing limits, periods that end."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.sweep import sweep
from routing_service.models import Period
from routing_service.money.budgets import remove_limit, set_limit, standing, top_up
from tests.support.examples import examples
from tests.support.factories import make_key
from tests.support.fakes import FakePublisher
from tests.support.key_limits import end_period
from tests.support.money_flow import KINDS, SETTINGS, SLOTS, World
from tests.support.planned import NANO, Planned, make_planned_batch


@dataclass
class KeyWorld:
    """A key and two batches of it, each with pumps of its own."""

    database: Database
    key_id: str
    worlds: list[World]

    def claim(self, which: int, slots: dict[str, int]) -> None:
        before = len(self.worlds[which].in_flight)
        self.worlds[which].claim(0, slots)
        if len(self.worlds[which].in_flight) == before:
            return
        with self.database.transaction() as session:
            for budget in standing(session, self.key_id):
                wanted = budget.limit_nano if budget.lowered_to_nano is None else budget.lowered_to_nano
                assert budget.reserved_nano + budget.settled_nano <= wanted

    def settle(self, which: int, kinds: list[str]) -> None:
        self.worlds[which].settle(kinds)

    def lose(self, which: int) -> None:
        self.worlds[which].lose(0)

    def limit(self, period: Period, amount: int) -> None:
        with self.database.transaction() as session:
            set_limit(session, self.key_id, period, amount)

    def top_up(self, period: Period, amount: int) -> None:
        with self.database.transaction() as session:
            if any(budget.period is period for budget in standing(session, self.key_id)):
                top_up(session, self.key_id, period, amount)

    def remove(self, period: Period) -> None:
        with self.database.transaction() as session:
            if any(budget.period is period for budget in standing(session, self.key_id)):
                remove_limit(session, self.key_id, period)

    def end_period(self) -> None:
        end_period(self.database, self.key_id)

    def sweep(self) -> None:
        sweep(self.database, SETTINGS, FakePublisher())

    def check(self) -> None:
        """The sums of both batches and of the ledger; and a key's budget neither downgrades nor ends a request."""
        for world in self.worlds:
            world.check()
        with self.database.transaction() as session:
            assert not session.scalar(text("select count(*) from decisions where reason = 'budget'"))
            assert not session.scalar(text("select count(*) from requests where state = 'unaffordable'"))

    def drain(self) -> None:
        """Without limits, and after a sweep, both batches come to their end."""
        for period in Period:
            self.remove(period)
        self.sweep()
        assert [world.drain() for world in self.worlds] == ["completed"] * 2


PLANNED = st.builds(
    Planned,
    ratio=st.sampled_from([0.5, 2.0]),
    pinned=st.sampled_from([None, None, "weak", "strong"]),
    output_cap=st.sampled_from([1, 64]),
)
WHICH, PERIODS = st.integers(0, 1), st.sampled_from(list(Period))
AMOUNTS = st.sampled_from([0, 50_000, 1_000_000, 5_000_000, 50_000_000])
CLAIMS = st.tuples(st.just("claim"), WHICH, SLOTS)
SETTLEMENTS = st.tuples(st.just("settle"), WHICH, st.lists(KINDS, min_size=1, max_size=5))
STEPS = st.one_of(
    CLAIMS,
    CLAIMS,
    SETTLEMENTS,
    SETTLEMENTS,
    st.tuples(st.just("lose"), WHICH),
    st.tuples(st.just("limit"), PERIODS, AMOUNTS),
    st.tuples(st.just("top_up"), PERIODS, AMOUNTS),
    st.tuples(st.just("remove"), PERIODS),
    st.tuples(st.just("end_period")),
    st.tuples(st.just("sweep")),
)


@examples(40)
@given(
    requests=st.lists(st.lists(PLANNED, min_size=1, max_size=8), min_size=2, max_size=2),
    priorities=st.tuples(st.integers(4, 6), st.integers(4, 6)),
    limits=st.dictionaries(PERIODS, AMOUNTS, min_size=1),
    steps=st.lists(STEPS, max_size=12),
)
def test_the_sums_of_a_key_hold_whatever_happens(
    database: Database,
    requests: list[list[Planned]],
    priorities: tuple[int, int],
    limits: dict[Period, int],
    steps: list[tuple[object, ...]],
) -> None:
    with database.transaction() as session:
        key_id = make_key(session).id
        batches = [
            make_planned_batch(
                session, lines, key_id=key_id, priority=priority, budget_nano=10 * NANO, shadow_price=1.0
            )
            for lines, priority in zip(requests, priorities, strict=True)
        ]
    world = KeyWorld(database, key_id, [World(database, b, [lease.open_lease(database, 60)]) for b in batches])
    for period, limit in limits.items():
        world.limit(period, limit)
    for name, *arguments in steps:
        getattr(world, str(name))(*arguments)
        world.check()
    world.drain()
    world.check()
    for of_batch in world.worlds:
        lease.close_lease(database, of_batch.pumps[0])
