"""Running a pump against an upstream, and what it did to the money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from routing_service.db import Database
from routing_service.events import DispatchDue
from routing_service.models import Budget
from routing_service.money import ledger
from routing_service.service import Service, handle
from routing_service.settings import Settings
from tests.support.factories import STRONG, WEAK, make_settings, without_broker
from tests.support.fakes import FakePublisher
from tests.support.planned import Planned, make_planned_batch


def pump_settings(base_url: str, model: dict[str, Any] | None = None, **dispatch: Any) -> Settings:
    """A weak and a strong model at that upstream, and a pump that waits for nothing. `model`: changes of both."""
    quick = {"idle_s": 0.5, "backoff_base_s": 0.01, "backoff_max_s": 0.05, "settle_interval_ms": 20}
    changes = {"base_url": base_url} | (model or {})
    return make_settings(models={"strong": STRONG | changes, "weak": WEAK | changes}, dispatch=quick | dispatch)


def run_pump(database: Database, settings: Settings, stopping: Callable[[], bool] = lambda: False) -> FakePublisher:
    """One stretch of a pump, to its end. Returns what it announced."""
    publisher = FakePublisher()
    service = Service(database, without_broker(settings), publisher, stopping)
    handle(service, DispatchDue())
    service.close()
    return publisher


def states_of(database: Database, batch_id: str) -> dict[str, int]:
    """How many requests of the batch are in which state."""
    query = text("select state::text, count(*) from requests where batch_id = :id group by state")
    with database.transaction() as session:
        return {row[0]: row[1] for row in session.execute(query, {"id": batch_id})}


def budget_of(database: Database, batch_id: str) -> Budget:
    with database.transaction() as session:
        return session.query(Budget).filter_by(batch_id=batch_id).one()


@dataclass(frozen=True)
class Closed:
    """How the one attempt was closed, and what its budget then says. Money in nano-dollars."""

    state: str
    kind: str
    basis: str
    error: str | None
    reserved: int  # for the attempt, before it was sent
    settled: int
    overrun: int


def closed_attempt(database: Database, batch_id: str) -> Closed:
    """Of a database with a single attempt. Holds the budget and the whole ledger against each other, too."""
    budget = budget_of(database, batch_id)
    assert budget.reserved_nano == 0
    assert budget.settled_nano <= budget.limit_nano
    with database.transaction() as session:
        assert ledger.verify(session) == []
        row = session.execute(
            text(
                "select attempts.state::text, entry.kind::text, entry.basis::text, error_code, reserved_nano"
                " from attempts join ledger_entries entry on entry.attempt_id = attempts.id and entry.kind <> 'reserve'"
            )
        ).one()
        state, kind, basis, error, reserved = row
        return Closed(state, kind, basis, error, reserved, budget.settled_nano, budget.overrun_nano)


def plan_lines(database: Database, lines: int = 1) -> str:
    with database.transaction() as session:
        return make_planned_batch(session, [Planned(prompt=f"Prompt {n}") for n in range(lines)])


def error_codes(database: Database) -> list[str | None]:
    """The error codes of all attempts."""
    with database.transaction() as session:
        return list(session.scalars(text("select error_code from attempts order by id")))


def assert_sound(database: Database, batch_id: str) -> None:
    assert budget_of(database, batch_id).reserved_nano == 0
    with database.transaction() as session:
        assert ledger.verify(session) == []
