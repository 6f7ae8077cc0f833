"""Companions: calls of our own run as a batch, under a budget of their own, and no client sees them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from openai import NotFoundError, OpenAI
from sqlalchemy import select, text

from migrations.runner import downgrade, upgrade
from routing_service.db import Database
from routing_service.dispatch import lease
from routing_service.dispatch.claim import claim
from routing_service.dispatch.finish import finish
from routing_service.errors import ConfigurationError
from routing_service.exploration.companion import CompanionLine, add_companion
from routing_service.models import Batch, BatchPurpose, BatchState, Decision, File, Request
from routing_service.money import ledger
from routing_service.money.pricing import price_book
from routing_service.money.reports import costs_by_batch
from routing_service.settings import Settings
from tests.support.api_server import Api
from tests.support.factories import make_key, make_settings
from tests.support.planned import NANO, Planned
from tests.support.pumping import budget_of
from tests.support.upstreams.scripted import Stage, dear


def _line(number: int, model: str = "weak", **changes: Any) -> CompanionLine:
    body = {"messages": [{"role": "user", "content": f"own {number}"}], "max_tokens": 64}
    values: dict[str, Any] = {"custom_id": f"own-{number}", "body": body, "model": model, "source_line": number}
    return CompanionLine(**(values | changes))


def _add(
    database: Database,
    settings: Settings,
    lines: Sequence[CompanionLine],
    *,
    purpose: BatchPurpose = BatchPurpose.JUDGE,
    parent_id: str | None = None,
    api_key_id: str | None = None,
    budget_nano: int = NANO,
) -> str:
    with database.transaction() as session:
        return add_companion(
            session,
            settings,
            price_book(settings),
            purpose=purpose,
            api_key_id=api_key_id or make_key(session).id,
            parent_id=parent_id,
            lines=lines,
            budget_nano=budget_nano,
            window=timedelta(hours=1),
        )


def _decisions(database: Database, batch_id: str) -> list[tuple[int, str, str, float]]:
    columns = (Decision.line, Decision.model, Decision.reason, Decision.propensity)
    with database.transaction() as session:
        query = select(*columns).where(Decision.batch_id == batch_id).order_by(Decision.line)
        return [(line, model, str(reason), round(p, 6)) for line, model, reason, p in session.execute(query)]


def test_a_companion_asks_each_line_of_its_model_and_logs_how_likely_that_was(database: Database) -> None:
    stage = Stage(database)
    parent = stage.plan(*dear(2))
    stage.pump()
    lines = [_line(1, "strong", propensity=0.25), _line(2, propensity=0.25), _line(3)]
    companion = _add(database, stage.settings, lines, purpose=BatchPurpose.EXPLORE, parent_id=parent)
    stage.pump()
    assert sorted(stage.upstreams.calls) == [("strong", "own 1"), ("weak", "own 2"), ("weak", "own 3")]
    assert _decisions(database, companion) == [
        (1, "strong", "explore", 0.25),
        (2, "weak", "explore", 0.25),
        (3, "weak", "explore", 1.0),
    ]
    assert {propensity for *_, propensity in _decisions(database, parent)} == {1.0}
    assert finish(database, companion)
    with database.transaction() as session:
        assert session.get_one(Batch, companion).state is BatchState.COMPLETED
        assert ledger.verify(session) == []
        sources = select(Request.source_line).where(Request.batch_id == companion).order_by(Request.line)
        assert list(session.scalars(sources)) == [1, 2, 3]


def test_a_companion_spends_no_more_than_its_own_budget_and_asks_in_the_order_of_its_lines(database: Database) -> None:
    stage = Stage(database, claim_chunk=2)
    # Alternately dear and cheap: money must not make the cheap ones go first.
    lines = [_line(n, "strong" if n % 2 else "weak") for n in range(1, 21)]
    companion = _add(database, stage.settings, lines, budget_nano=4_000_000)
    stage.pump()
    budget = budget_of(database, companion)
    assert 0 < budget.settled_nano <= budget.limit_nano == 4_000_000
    assert budget.reserved_nano == 0
    states = stage.rows(f"select line, state::text from requests where batch_id = '{companion}' order by line")
    assert {state for _, state in states} <= {"succeeded", "unaffordable"}
    assert states[0][1] == states[1][1] == "succeeded"
    assert {reason for _, _, reason, _ in _decisions(database, companion)} == {"pinned"}


def test_lines_for_a_model_without_room_hold_up_no_line_of_another(database: Database) -> None:
    settings = make_settings(dispatch={"claim_chunk": 2})
    companion = _add(database, settings, [*(_line(n, "strong") for n in range(1, 5)), _line(5), _line(6)])
    held = lease.open_lease(database, 30)
    with database.transaction() as session:
        slots = {"weak": 5, "strong": 0}
        got = claim(session, settings, price_book(settings), held.pump_id, companion, slots)
    assert [ticket.line for ticket in got.tickets] == [5, 6]


def test_a_client_never_sees_a_companion(api: Api, client: OpenAI, database: Database, settings: Settings) -> None:
    with database.transaction() as session:
        key_id = session.scalars(text("select id from api_keys")).one()
    companion = _add(database, settings, [_line(1)], api_key_id=key_id)
    assert list(client.batches.list()) == []
    with pytest.raises(NotFoundError):
        client.batches.retrieve(companion)
    with pytest.raises(NotFoundError):
        client.batches.cancel(companion)
    stage = Stage(database)
    stage.pump()
    assert finish(database, companion)
    assert list(client.files.list()) == []
    with database.transaction() as session:
        assert list(session.scalars(select(File))) == []


def test_costs_of_companions_count_but_save_nothing(database: Database) -> None:
    stage = Stage(database)
    parent = stage.plan(Planned(ratio=0.5))
    _add(database, stage.settings, [_line(1)], parent_id=parent)
    stage.pump()
    with database.transaction() as session:
        rows = {row["purpose"]: row for row in costs_by_batch(session).rows}
    assert rows["client"]["saved_usd"] > 0
    assert rows["judge"]["cost_usd"] > 0
    assert (rows["judge"]["saved_usd"], rows["judge"]["parent_id"]) == (None, parent)


def test_a_batch_has_one_exploration(database: Database) -> None:
    stage = Stage(database)
    parent = stage.plan(*dear(1))
    _add(database, stage.settings, [_line(1)], purpose=BatchPurpose.EXPLORE, parent_id=parent)
    with pytest.raises(Exception, match="uq_batches_explore"):
        _add(database, stage.settings, [_line(1)], purpose=BatchPurpose.EXPLORE, parent_id=parent)


def test_a_companion_without_lines_or_for_an_unknown_model_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="at least one line"):
        _add(database, make_settings(), [])
    with pytest.raises(ConfigurationError, match="'nobody' is not configured"):
        _add(database, make_settings(), [_line(1, "nobody")])


def test_the_schema_before_companions_keeps_what_they_spent(database_url: str, database: Database) -> None:
    stage = Stage(database)
    parent = stage.plan(*dear(1))
    companion = _add(database, stage.settings, [_line(1)], purpose=BatchPurpose.EXPLORE, parent_id=parent)
    stage.pump()
    spent = budget_of(database, companion).settled_nano
    database.dispose()
    downgrade(database_url, "0019")
    with database.transaction() as session:
        query = text("select settled_usd * 1e9 from cost_by_batch where batch_id = :id")
        assert session.scalar(query, {"id": companion}) == spent > 0
    database.dispose()
    upgrade(database_url)
